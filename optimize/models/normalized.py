"""Normalisation inside the model: pixels in, as they come."""

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """`body((pixels - mean) / std)`, with mean and std in pixel units (0..255).

    One mean and std for all channels (a float) is an affine uint8 quantization of its own:
    scale 1/std, zero point mean. A statically quantized body then reads the pixels as its
    quantized input as they are; `quantize` uses that when `mean` is a whole number.
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
        """uint8 `[N, C, H, W]` to the float32 the body takes."""
        return (pixels.float() - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.body(self.normalize(pixels))
        return logits

    def input_quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) that make the pixels themselves the quantized input, or None."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        if len(set(mean)) != 1 or len(set(std)) != 1 or not float(mean[0]).is_integer():
            return None
        return 1.0 / std[0], int(mean[0])
