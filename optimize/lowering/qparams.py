"""Quantization parameters: how float values map to uint8 activations and int8 weights.

QParams per tensor for activations, symmetric per output channel or table row for weights (Jacob
et al. 2018). Every scale of this project is computed here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPS = 1e-9
"""The smallest range of values that a scale is made for: an all-zero tensor needs a scale too."""


@dataclass(frozen=True)
class QParams:
    """uint8 quantization of a tensor: value = (stored - zero_point) * scale."""

    scale: float
    zero_point: int

    @staticmethod
    def covering(low: float, high: float) -> "QParams":
        """The parameters that span [low, high] and hold zero exactly."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = max(high - low, EPS) / 255.0
        return QParams(scale, int(min(255, max(0, round(-low / scale)))))

    def range(self) -> tuple[float, float]:
        """The least and the greatest value that uint8 holds."""
        low = -self.zero_point * self.scale
        return low, low + 255 * self.scale


def channel_scales(weight: Tensor, eps: float = EPS) -> Tensor:
    """Symmetric int8 scales, float64 `[rows]`: the largest magnitude of each row becomes 127.

    Args:
        weight: float `[rows, ...]`; a row is an output channel or a row of a table.
        eps: the largest magnitude that an all-zero row is taken to have.
    """
    return weight.flatten(1).abs().amax(1).double().clamp(min=eps) / 127.0


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and float32 scales `[rows, 1, ...]` of a float weight `[rows, ...]`.

    TorchScript can compile it, for weights that are quantized when a file is loaded.
    """
    scale = channel_scales(weight).float().view([-1] + [1] * (weight.dim() - 1))
    return torch.round(weight / scale).to(torch.int8), scale


def quantize_channels(weight: Tensor) -> Tensor:
    """A float weight `[channels, ...]` as the qint8 tensor that packing takes."""
    scale = channel_scales(weight)
    zero_points = torch.zeros(len(weight), dtype=torch.long)
    return torch.quantize_per_channel(weight.float(), scale, zero_points, 0, torch.qint8)


def from_rows(values: Tensor, scale: Tensor) -> Tensor:
    """The qint8 tensor of what `quantize_rows` returned; TorchScript can compile it."""
    zero_points = torch.zeros(values.size(0), dtype=torch.long)
    return torch._make_per_channel_quantized_tensor(
        values, scale.flatten().double(), zero_points, 0
    )
