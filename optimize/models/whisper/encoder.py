"""Whisper's audio encoder for one clip at a time, with the cross-attention keys and values.

Clips of a batch differ in length, and the matrix products of one clip already use the processor
fully, so computing them one at a time costs nothing and avoids padding.
"""

from typing import Final

import torch
from torch import Tensor, nn

from optimize.models.whisper.checkpoint import Spec


def merge_tail(x: Tensor, start: int, group: int) -> Tensor:
    """Average the rows from `start` on in groups of `group`, which divides their number."""
    if start == x.shape[0]:
        return x
    return torch.cat([x[:start], x[start:].view(-1, group, x.shape[1]).mean(1)])


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
        """Attention of already scaled queries over the clip's keys and those of the fill."""
        dtype = torch.bfloat16 if self.bf16_attention else torch.float32
        own, width = qkv.shape[0], qkv.shape[1] // (3 * self.heads)
        parts = qkv.view(own, 3, self.heads, width).permute(1, 2, 0, 3)
        q = parts[0].to(dtype).contiguous()
        count = own + fill.shape[2]
        keys_values = torch.empty([2, self.heads, count, width], dtype=dtype)
        keys_values[:, :, :own] = parts[1:]
        if fill.shape[2] > 0:
            keys_values[:, :, own:] = fill
        k, v = keys_values[0], keys_values[1]
        raised = torch.zeros([count], dtype=dtype)
        if bias.shape[0] > 0:
            raised[count - bias.shape[0] :] = bias
        # Without AMX the fused kernel has no bf16 arithmetic, but two products around a softmax
        # have. For long clips, one head at a time keeps the scores in the processor's cache.
        if own <= self.whole_up_to:
            scores = torch.baddbmm(raised, q, k.transpose(1, 2))
            mixed = torch.bmm(torch.softmax(scores, -1), v)
        else:
            mixed = torch.empty_like(q)
            for head in range(self.heads):
                scores = torch.addmm(raised, q[head], k[head].t())
                mixed[head] = torch.mm(torch.softmax(scores, -1), v[head])
        return mixed.transpose(0, 1).to(torch.float32).reshape(own, self.heads * width)

    def forward(self, x: Tensor, fill: Tensor, bias: Tensor) -> Tensor:
        """One layer.

        Args:
            x: `[positions, width]`.
            fill: keys and values of positions that are attended to but not computed:
                `[2, heads, groups, head width]`.
            bias: added to the scores of the last keys, `[keys]`; empty for none.
        """
        x = self.out(self._attend(self.qkv(self.norm1(x)), fill, bias)).add_(x)
        # In place: an activation of 30 s is 9 MB, and new pages cost more than the arithmetic.
        return self.fc2(torch.ops.aten.gelu_(self.fc1(self.norm2(x)))).add_(x)


class Encoder(nn.Module):
    """Log-mel frames to the cross-attention keys and values of every decoder layer."""

    whole_layers: Final[int]

    def __init__(self, spec: Spec, bf16_attention: bool = False, whole_layers: int = 1) -> None:
        super().__init__()
        self.whole_layers = whole_layers
        self.conv1 = nn.Linear(3 * spec.mels, spec.width)
        self.conv2 = nn.Linear(3 * spec.width, spec.width)
        self.layers = nn.ModuleList(
            EncoderLayer(spec, bf16_attention) for _ in range(spec.encoder_layers)
        )
        self.norm = nn.LayerNorm(spec.width)
        self.cross = nn.Linear(spec.width, spec.decoder_layers * 2 * spec.width)
        self.register_buffer("positions", torch.zeros(spec.audio_positions, spec.width).half())

    def _windows(self, x: Tensor, stride: int) -> Tensor:
        """Every window of three frames as a row, so that a convolution is a matrix product."""
        frames, channels = x.shape[0], x.shape[1]
        edge = torch.zeros(1, channels)
        padded = torch.cat([edge, x, edge])
        return padded.as_strided(
            [frames // stride, 3 * channels], [stride * channels, 1]
        ).contiguous()

    def forward(
        self,
        features: Tensor,
        positions: int,
        fill: Tensor,
        bias: Tensor,
        real: int,
        group: int,
        merged: int,
    ) -> Tensor:
        """Keys and values of the audio for every decoder layer.

        Args:
            features: log-mel `[frames, mels]`, two frames to a position. With a fill there are
                two more frames, because the convolutions look ahead. If there are fewer than
                `positions` need, the last four positions are silence and are repeated.
            positions: number of positions to encode.
            fill: per layer, see `EncoderLayer`: `[layers, 2, heads, groups, head width]`.
            bias: see `EncoderLayer`; of the keys that represent several positions.
            real, group: after the first `whole_layers` layers the positions from `real` on are
                averaged in groups of `group` (token merging, Bolya et al. 2023), see
                `merge_tail`.
            merged: the first `real` positions are averaged in groups of this for the decoder;
                divides `real`.

        Returns:
            `[keys, decoder layers * 2 * width]`.
        """
        x = torch.ops.aten.gelu_(self.conv1(self._windows(features, 1)))
        x = torch.ops.aten.gelu_(self.conv2(self._windows(x, 2)))
        if x.shape[0] > positions:
            x = x[:positions]
        elif x.shape[0] < positions:  # silence looks the same everywhere but at the end
            silent = x[-2:-1].expand(positions - x.shape[0], x.shape[1])
            x = torch.cat([x[:-2], silent, x[-2:]])
        x = x + self.positions[:positions].float()
        for i, layer in enumerate(self.layers):
            if i == self.whole_layers:
                x = merge_tail(x, real, group)
            whole = i < self.whole_layers and real < positions
            x = layer(x, fill[i], bias[:0] if whole else bias)
        x = self.norm(x)
        if merged > 1:
            x = torch.cat([merge_tail(x[:real], 0, merged), x[real:]])
        return self.cross(x)
