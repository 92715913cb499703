"""Normalisation as part of the model, whose input is raw pixels."""

from typing import Any

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """`body((pixels - mean) / std)`, with mean and std in pixel units (0..255).

    One mean and std for all channels (a float) amount to affine uint8 quantization with scale
    1/std and zero point mean. A statically quantized body can then take the pixels themselves as
    its quantized input; `quantize` does so if `mean` is a whole number.
    """

    def __init__(
        self, body: nn.Module, mean: float | list[float], std: float | list[float]
    ) -> None:
        super().__init__()
        self.body = body
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 `[N, C, H, W]` to normalised float32, the input of the body."""
        return (pixels.float() - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.body(self.normalize(pixels))
        return logits

    def input_quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) of the pixels as the quantized input; None if it is impossible."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        if len(set(mean)) != 1 or len(set(std)) != 1 or not float(mean[0]).is_integer():
            return None
        return 1.0 / std[0], int(mean[0])


def normalized(model: nn.Module, mean: float | list[float], std: float | list[float]) -> Normalized:
    """`model` with this mean and std, in pixel units, before it; in place of its own if it is
    `Normalized` already."""
    body = model.body if isinstance(model, Normalized) else model
    return Normalized(body, mean, std)


def of_pixels(model: nn.Module, mean: Any = None, std: Any = None) -> nn.Module:
    """`model` of a file as a module of pixels: with mean and std, in pixel units, before it; as it
    is where it is given neither."""
    if mean is None and std is None:
        return model
    return Normalized(model, 0.0 if mean is None else mean, 1.0 if std is None else std)
