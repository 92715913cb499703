"""Whisper's text decoder: one step over a batch, with key and value caches."""

from typing import Final

import torch
from torch import Tensor, nn

from optimize.models.whisper.checkpoint import Spec


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
        self,
        x: Tensor,
        cache: Tensor,
        past: int,
        causal: Tensor,
        audio: list[Tensor],
        bias: list[Tensor],
    ) -> Tensor:
        """One step.

        Args:
            x: `[rows * tokens, width]`.
            cache: `[2, rows, heads, capacity, head width]`, written at `past`.
            past: tokens already in the cache.
            causal: added to the scores of self-attention, `[tokens, past + tokens]`; not used
                for one token.
            audio: each row's keys and values `[2, heads, positions, head width]`.
            bias: added to each row's cross-attention scores, `[positions]`.
        """
        rows, capacity, width = cache.shape[1], cache.shape[3], cache.shape[4]
        tokens = x.shape[0] // rows
        shape = [rows, tokens, 3, self.heads, width]
        qkv = self.qkv(self.norm1(x)).view(shape).permute(2, 0, 3, 1, 4)
        cache[:, :, :, past : past + tokens] = qkv[1:]
        keys_values = cache.view(2, -1, capacity, width)[:, :, : past + tokens]
        # Two products around a softmax take half the time of the fused kernel for one query.
        query = qkv[0].reshape(-1, tokens, width)
        scores = torch.bmm(query, keys_values[0].transpose(1, 2))
        if tokens > 1:
            scores += causal
        mixed = torch.bmm(torch.softmax(scores, -1), keys_values[1])
        x = self.out(self._rows(mixed, tokens)).add_(x)
        query = self.query(self.norm_cross(x)).view(rows, tokens, self.heads, width)
        query = query.transpose(1, 2)
        # Rows differ in length: computed one by one, none is padded to the longest.
        crossed = [self._cross_attend(query[i], audio[i], bias[i]) for i in range(rows)]
        mixed = crossed[0] if rows == 1 else torch.cat(crossed)
        x = self.out_cross(self._rows(mixed, tokens)).add_(x)
        return self.fc2(torch.ops.aten.gelu_(self.fc1(self.norm2(x)))).add_(x)

    def _cross_attend(self, query: Tensor, audio: Tensor, bias: Tensor) -> Tensor:
        """Cross-attention of one row: `[heads, tokens, head width]`, as the query."""
        scores = torch.baddbmm(bias, query, audio[0].transpose(1, 2))
        return torch.bmm(torch.softmax(scores, -1), audio[1])

    def _rows(self, mixed: Tensor, tokens: int) -> Tensor:
        """`[rows * heads, tokens, head width]` to `[rows * tokens, width]`."""
        heads = mixed.view(-1, self.heads, tokens, mixed.shape[2]).transpose(1, 2)
        return heads.reshape(-1, self.heads * mixed.shape[2])


class Decoder(nn.Module):
    """Embedded tokens to the last hidden state; the embedding table is in the vocabulary module."""

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
        rows, tokens, width = x.shape
        x = (x + self.positions[past : past + tokens]).view(rows * tokens, width)
        causal = torch.full([tokens, past + tokens], -1e9).triu(past + 1) if tokens > 1 else x
        for i, layer in enumerate(self.layers):
            x = layer(x, cache[i], past, causal, audio[i], bias)
        return self.norm(x.view(rows, tokens, width)[:, -1])
