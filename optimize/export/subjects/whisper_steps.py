"""Whisper as two modules without loops: the encoder, and one step of the decoder.

The transcriber of `optimize.models.whisper` has a scripted loop, which export formats do not
support. Here the same weights are applied in batches, with the caches as inputs and outputs; the
caller keeps the caches and loops.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.models.whisper.checkpoint import Spec
from optimize.models.whisper.transcriber import Transcriber


def _kernel(weight: Tensor) -> Tensor:
    """A convolution's kernel `[out, in, 3]` from the rows of its windows `[out, 3 * in]`."""
    return weight.view(weight.shape[0], 3, -1).permute(0, 2, 1).contiguous()


class EncoderExport(nn.Module):
    """Log-mel `[batch, 3000, mels]` to keys and values of every layer and head.

    `[batch, layers * 2 * heads, 1500, head width]`, the layout of the decoder's cache, so that no
    step has to transpose them.
    """

    def __init__(self, model: Transcriber) -> None:
        super().__init__()
        encoder = model.encoder
        self.heads = model.heads
        self.layers, self.norm, self.cross = encoder.layers, encoder.norm, encoder.cross
        self.kernels = nn.ParameterList(
            nn.Parameter(_kernel(conv.weight), requires_grad=False)
            for conv in (encoder.conv1, encoder.conv2)
        )
        self.biases = nn.ParameterList([encoder.conv1.bias, encoder.conv2.bias])
        self.register_buffer("positions", encoder.positions.float())

    def forward(self, features: Tensor) -> Tensor:
        x = features.transpose(1, 2)
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            x = functional.gelu(functional.conv1d(x, kernel, bias, stride=i + 1, padding=1))
        x = x.transpose(1, 2) + self.positions
        batch, count, width = x.shape
        for layer in self.layers:
            y = layer.norm1(x)
            shape = (batch, count, 3, self.heads, width // self.heads)
            q, k, v = layer.qkv(y).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
            mixed = torch.softmax(q @ k.transpose(-1, -2), -1) @ v  # queries are already scaled
            x = x + layer.out(mixed.transpose(1, 2).reshape(batch, count, width))
            x = x + layer.fc2(functional.gelu(layer.fc1(layer.norm2(x))))
        keys_values: Tensor = self.cross(self.norm(x))
        return keys_values.view(batch, count, -1, width // self.heads).transpose(1, 2).contiguous()


class DecoderStep(nn.Module):
    """One token of every row.

    `forward(token, past, cache, audio)`: int32 `[batch]`; int32 `[batch]`, how many tokens are
    in the cache; float32 `[batch, layers * 2 * heads, capacity, head width]`, of which the first
    `past` are read; what the encoder returned. Returns logits `[batch, tokens]`, and the keys
    and values `[batch, layers * 2 * heads, 1, head width]` to write at `past`.

    Suppressing tokens is left to the loop: minus a billion among the logits would overflow
    float16, and would hide errors of the other logits.
    """

    def __init__(self, model: Transcriber, spec: Spec, capacity: int) -> None:
        super().__init__()
        self.heads, self.width = spec.heads, spec.head_width
        self.layers, self.norm = model.decoder.layers, model.decoder.norm
        self.register_buffer("positions", model.decoder.positions)
        # A linear layer, which quantizers recognise; its weight is also the embedding table.
        table = model.vocabulary.table
        self.head = nn.Linear(table.shape[1], table.shape[0], bias=False, device="meta")
        self.head.weight = nn.Parameter(table, requires_grad=False)
        self.register_buffer("places", torch.arange(capacity, dtype=torch.int32))

    def forward(
        self, token: Tensor, past: Tensor, cache: Tensor, audio: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, heads = token.shape[0], self.heads
        x = functional.embedding(token.long(), self.head.weight) + self.positions[past.long()]
        x = x.unsqueeze(1)
        unread = (self.places[None, :] >= past[:, None])[:, None, None, :]
        hidden = torch.zeros_like(unread, dtype=x.dtype).masked_fill(unread, -1e9)
        fresh = []
        for i, layer in enumerate(self.layers):
            shape = (batch, 1, 3, heads, self.width)
            q, k, v = layer.qkv(layer.norm1(x)).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
            fresh += [k, v]
            of_keys = slice(2 * heads * i, 2 * heads * i + heads)
            of_values = slice(of_keys.stop, of_keys.stop + heads)
            # The new token's score is concatenated to the cache's, so the cache is not copied.
            cached = q @ cache[:, of_keys].transpose(-1, -2) + hidden
            weights = torch.softmax(torch.cat([cached, (q * k).sum(-1, keepdim=True)], -1), -1)
            mixed = weights[..., :-1] @ cache[:, of_values] + weights[..., -1:] * v
            x = x + layer.out(mixed.transpose(1, 2).reshape(batch, 1, heads * self.width))
            q = layer.query(layer.norm_cross(x)).view(batch, 1, heads, self.width).transpose(1, 2)
            weights = torch.softmax(q @ audio[:, of_keys].transpose(-1, -2), -1)
            mixed = weights @ audio[:, of_values]
            x = x + layer.out_cross(mixed.transpose(1, 2).reshape(batch, 1, heads * self.width))
            x = x + layer.fc2(functional.gelu(layer.fc1(layer.norm2(x))))
        logits = self.head(self.norm(x[:, 0]))
        return logits, torch.cat(fresh, 1)
