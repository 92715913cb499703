"""Whisper's text decoder: one step over a batch, with key and value caches."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.whisper.checkpoint import Spec


class DecoderLayer(nn.Module):
    """Self-attention over the cache, cross-attention over the audio, feed-forward."""

    heads: Final[int]

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.norm1 = nn.LayerNorm(spec.width)
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.out = nn.Linear(spec.width, spec.width)
        self.norm_cross = nn.LayerNorm(spec.width)
        self.query = nn.Linear(spec.width, spec.width)
        self.out_cross = nn.Linear(spec.width, spec.width)
        self.norm2 = nn.LayerNorm(spec.width)
        self.fc1 = nn.Linear(spec.width, 4 * spec.width)
        self.fc2 = nn.Linear(4 * spec.width, spec.width)

    def forward(
        self, x: Tensor, cache: Tensor, past: int, audio: list[Tensor], bias: list[Tensor]
    ) -> Tensor:
        """One step.

        Args:
            x: `[rows, tokens, width]`.
            cache: `[2, rows, heads, capacity, head width]`, written at `past`.
            past: tokens already in the cache.
            audio: each row's keys and values `[2, heads, positions, head width]`.
            bias: added to each row's cross-attention scores, `[positions]`.
        """
        rows, tokens, width = x.shape
        shape = [rows, tokens, 3, self.heads, width // self.heads]
        qkv = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        cache[:, :, :, past : past + tokens] = qkv[1:]
        mixed = functional.scaled_dot_product_attention(
            qkv[0],
            cache[0, :, :, : past + tokens],
            cache[1, :, :, : past + tokens],
            is_causal=tokens > 1,
            scale=1.0,
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, tokens, width))
        query = self.query(self.norm_cross(x)).view(rows, tokens, self.heads, -1).transpose(1, 2)
        # Rows differ in length: one by one, none is padded to the longest.
        heard = [
            functional.scaled_dot_product_attention(
                query[i : i + 1],
                audio[i][0].unsqueeze(0),
                audio[i][1].unsqueeze(0),
                attn_mask=bias[i].view(1, 1, 1, -1),
                scale=1.0,
            )
            for i in range(rows)
        ]
        mixed = torch.cat(heard).transpose(1, 2).reshape(rows, tokens, width)
        x = x + self.out_cross(mixed)
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Decoder(nn.Module):
    """Tokens to the last hidden state; the vocabulary's table lives beside it."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(spec) for _ in range(spec.decoder_layers))
        self.norm = nn.LayerNorm(spec.width)
        self.register_buffer("positions", torch.zeros(spec.text_positions, spec.width))

    def forward(
        self,
        x: Tensor,
        cache: list[Tensor],
        past: int,
        audio: list[list[Tensor]],
        bias: list[Tensor],
    ) -> Tensor:
        """Hidden states `[rows, width]` after the last of the embedded tokens `x`.

        Args:
            x: embeddings `[rows, tokens, width]`, without positions; more than one token only
                while the cache is empty.
            cache: per layer, see `DecoderLayer`.
            past: tokens already in the cache.
            audio: per layer, see `DecoderLayer`.
            bias: see `DecoderLayer`.
        """
        x = x + self.positions[past : past + x.shape[1]]
        for i, layer in enumerate(self.layers):
            x = layer(x, cache[i], past, audio[i], bias)
        return self.norm(x[:, -1])
