"""Models: architectures that recipes can name, and models that users bring.

Every image model in a pipeline takes uint8 pixels `[N, C, H, W]` (0..255) and returns float32
logits `[N, classes]`: `Normalized` puts the normalisation inside.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from optimize.errors import ModelError
from optimize.imports import retrying
from optimize.yaml_reader import Named


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
    loader = spec.loader
    try:
        retrying(lambda: loader.exec_module(module))
    except Exception as error:
        raise ModelError(f"{path} fails to import: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ModelError(f"{path} has no function {name!r}; it has {', '.join(known) or 'none'}")
    return function  # type: ignore[no-any-return]


def resolve(spec: Named) -> Named:
    """What a bare name means: a TorchScript file, `timm/NAME`, or a Hugging Face folder or id.

    Names of ours and `file.py:function` are returned as they are.
    """
    name = spec.name
    if ":" in name:
        return spec
    kind = None
    if name.endswith((".pt", ".jit", ".ts", ".torchscript")):
        kind = "torchscript"
    elif name.startswith("timm/"):
        kind, name = "timm", name.removeprefix("timm/")
    elif re.fullmatch(r"[~.\w-]*/[\w./-]+", name):
        kind = "huggingface"
    return spec if kind is None else Named(kind, {"name": name, **spec.options}, spec.where)


def check(model: nn.Module, name: str, pixels: Tensor, classes: int) -> None:
    """Refuse a model that does not turn uint8 pixels `[N, C, H, W]` into logits `[N, classes]`.

    Raises:
        ModelError: says what it raised or returned, and how to wrap it.
    """
    wrap = (
        "wrap it in your build function: a module whose forward(pixels) takes uint8 "
        f"{list(pixels.shape)} and returns float logits [{len(pixels)}, {classes}]"
    )
    training = model.training
    try:
        with torch.no_grad():
            answers = model.eval()(pixels)
    except Exception as error:  # the user's code: anything can come out
        reason = (str(error).strip().splitlines() or [""])[-1][:200]
        raise ModelError(
            f"model {name} fails on pixels uint8 {list(pixels.shape)}: "
            f"{type(error).__name__}: {reason}; {wrap}"
        ) from error
    finally:
        model.train(training)
    if not isinstance(answers, Tensor):
        raise ModelError(f"model {name} returns {type(answers).__name__}, not logits; {wrap}")
    if answers.shape != (len(pixels), classes) or not answers.is_floating_point():
        raise ModelError(
            f"model {name} returns {answers.dtype} {list(answers.shape)}, not float "
            f"[{len(pixels)}, {classes}]; {wrap}"
        )


def parameters(model: nn.Module) -> int:
    """Number of trained values in a float model, those folded into TorchScript included."""
    folded = sum(getattr(m, "folded", int)() for m in model.modules())  # TorchScriptFile has it
    return sum(p.numel() for p in model.parameters()) + folded


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one example `[1, ...]`."""
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):  # takes no hooks
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(example)
        return int(counter.get_total_flops()) // 2
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
