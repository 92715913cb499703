"""Models: architectures that recipes can name, and models that users bring.

Every image model in a pipeline takes uint8 pixels `[N, C, H, W]` (0..255) and returns float32
logits `[N, classes]`: `Normalized` puts the normalisation inside.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from optimize.errors import ModelError


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


def load_function(reference: str, folder: Path) -> Callable[..., Any]:
    """The function named by `path/to/file.py:name`, the path relative to `folder`.

    Raises:
        ModelError: no such file or function, or the file fails to import.
    """
    file, _, name = reference.rpartition(":")
    path = (folder / file).resolve() if not Path(file).is_absolute() else Path(file)
    if not path.is_file():
        raise ModelError(f"{reference}: {path} is not a file; write path/to/file.py:function")
    spec = importlib.util.spec_from_file_location(f"marpress_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{reference}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    cloudpickle.register_pickle_by_value(module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ModelError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def parameters(model: nn.Module) -> int:
    """Number of trained values in a float model."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one example `[1, ...]`."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            kernel = module.weight.shape[1:].numel()
            total += output.numel() * kernel

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return total
