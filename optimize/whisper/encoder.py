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

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attention of `[positions, 3 * width]`; queries are already scaled."""
        count, width = qkv.shape[0], qkv.shape[1] // 3
        split = qkv.view(count, 3, self.heads, width // self.heads).permute(1, 2, 0, 3)
        if not self.bf16_attention:
            q, k, v = split.unbind(0)
            mixed = functional.scaled_dot_product_attention(
                q.unsqueeze(0), k.unsqueeze(0), v.unsqueeze(0), scale=1.0
            )
            return mixed[0].transpose(0, 1).reshape(count, width)
        # The fused kernel has no bf16 arithmetic without AMX; two products around a softmax
        # have, and a head's scores stay in the cache.
        q, k, v = split.to(torch.bfloat16).unbind(0)
        if count <= self.whole_up_to:
            mixed = torch.matmul(
                torch.softmax(torch.matmul(q, k.transpose(1, 2)), -1), v
            )
        else:
            mixed = torch.empty_like(q)
            for head in range(self.heads):
                scores = torch.softmax(torch.matmul(q[head], k[head].t()), -1)
                mixed[head] = torch.matmul(scores, v[head])
        return mixed.transpose(0, 1).to(torch.float32).reshape(count, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[positions, width]` to the same."""
        x = x + self.out(self._attend(self.qkv(self.norm1(x))))
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
        self.register_buffer(
            "positions", torch.zeros(spec.audio_positions, spec.width).half()
        )

    def _windows(self, x: Tensor, stride: int) -> Tensor:
        """Every window of three frames, as rows: a convolution becomes a matrix product."""
        frames, channels = x.shape[0], x.shape[1]
        edge = torch.zeros(1, channels)
        padded = torch.cat([edge, x, edge])
        return padded.as_strided(
            [frames // stride, 3 * channels], [stride * channels, 1]
        ).contiguous()

    @torch.jit.export
    def hidden(self, features: Tensor) -> Tensor:
        """Hidden states `[positions, width]` of log-mel features `[2 * positions, mels]`."""
        x = functional.gelu(self.conv1(self._windows(features, 1)))
        x = functional.gelu(self.conv2(self._windows(x, 2)))
        x = x + self.positions[: x.shape[0]].float()
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)

    def forward(self, features: Tensor) -> Tensor:
        """Keys and values `[positions, layers * 2 * width]` of features `[frames, mels]`."""
        return self.cross(self.hidden(features))
