"""Whisper's audio encoder for one clip at a time, with the cross-attention keys and values.

Clips of a batch differ in length, and a matrix product of a whole clip already fills the
processor: one at a time costs nothing and pads nothing.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.whisper.checkpoint import Spec


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward block over `[positions, width]`."""

    heads: Final[int]
    bf16_attention: Final[bool]
    whole_up_to: Final[int] = 512

    def __init__(self, spec: Spec, bf16_attention: bool) -> None:
        super().__init__()
        self.heads, self.bf16_attention = spec.heads, bf16_attention
        self.norm1 = nn.LayerNorm(spec.width)
        self.qkv = nn.Linear(spec.width, 3 * spec.width)
        self.out = nn.Linear(spec.width, spec.width)
        self.norm2 = nn.LayerNorm(spec.width)
        self.fc1 = nn.Linear(spec.width, 4 * spec.width)
        self.fc2 = nn.Linear(4 * spec.width, spec.width)

    def _attend(self, qkv: Tensor, fill: Tensor, bias: Tensor) -> Tensor:
        """Attention of `[positions, 3 * width]`, queries already scaled, and of the fill."""
        count, width = qkv.shape[0], qkv.shape[1] // 3
        split = qkv.view(count, 3, self.heads, width // self.heads).permute(1, 2, 0, 3)
        if self.bf16_attention:
            split = split.to(torch.bfloat16)
        q, k, v = split.unbind(0)
        if fill.shape[2] > 0:
            k = torch.cat([k, fill[0].to(k.dtype)], dim=1)
            v = torch.cat([v, fill[1].to(v.dtype)], dim=1)
            bias = torch.cat([torch.zeros(count), bias]).to(q.dtype)
        # The fused kernel has no bf16 arithmetic without AMX; two products around a softmax
        # have, and one head's scores stay in the cache.
        if count <= self.whole_up_to:
            scores = torch.matmul(q, k.transpose(1, 2))
            if fill.shape[2] > 0:
                scores += bias
            mixed = torch.matmul(torch.softmax(scores, -1), v)
        else:
            mixed = torch.empty_like(q)
            for head in range(self.heads):
                scores = torch.matmul(q[head], k[head].t())
                if fill.shape[2] > 0:
                    scores += bias
                mixed[head] = torch.matmul(torch.softmax(scores, -1), v[head])
        return mixed.transpose(0, 1).to(torch.float32).reshape(count, width)

    def forward(self, x: Tensor, fill: Tensor, bias: Tensor) -> Tensor:
        """One layer.

        Args:
            x: `[positions, width]`.
            fill: keys and values of positions that are not computed, attended to as well:
                `[2, heads, groups, head width]`.
            bias: added to the scores of those, `[groups]`.
        """
        x = x + self.out(self._attend(self.qkv(self.norm1(x)), fill, bias))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Encoder(nn.Module):
    """Log-mel frames to the keys and values that every decoder layer attends to."""

    def __init__(self, spec: Spec, bf16_attention: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Linear(3 * spec.mels, spec.width)
        self.conv2 = nn.Linear(3 * spec.width, spec.width)
        self.layers = nn.ModuleList(
            EncoderLayer(spec, bf16_attention) for _ in range(spec.encoder_layers)
        )
        self.norm = nn.LayerNorm(spec.width)
        self.cross = nn.Linear(spec.width, spec.decoder_layers * 2 * spec.width)
        self.register_buffer("positions", torch.zeros(spec.audio_positions, spec.width).half())

    def _windows(self, x: Tensor, stride: int) -> Tensor:
        """Every window of three frames, as rows: a convolution becomes a matrix product."""
        frames, channels = x.shape[0], x.shape[1]
        edge = torch.zeros(1, channels)
        padded = torch.cat([edge, x, edge])
        return padded.as_strided(
            [frames // stride, 3 * channels], [stride * channels, 1]
        ).contiguous()

    def forward(self, features: Tensor, fill: Tensor, bias: Tensor) -> Tensor:
        """Keys and values of the audio for every decoder layer.

        Args:
            features: log-mel `[2 * positions, mels]`, and two frames more if there is a fill:
                the convolutions look ahead.
            fill: per layer, see `EncoderLayer`: `[layers, 2, heads, groups, head width]`.
            bias: see `EncoderLayer`.

        Returns:
            `[positions, decoder layers * 2 * width]`.
        """
        x = functional.gelu(self.conv1(self._windows(features, 1)))
        x = functional.gelu(self.conv2(self._windows(x, 2)))
        if fill.shape[3] > 0:
            x = x[:-1]
        x = x + self.positions[: x.shape[0]].float()
        for i, layer in enumerate(self.layers):
            x = layer(x, fill[i], bias)
        return self.cross(self.norm(x))
