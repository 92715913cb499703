"""Fake quantization: int8 arithmetic in float32, to train through and to measure one layer."""

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from optimize.errors import OptionError
from optimize.lowering.inputs import Inputs, as_tuple, split
from optimize.lowering.observers import Histogram, Ranges
from optimize.lowering.qparams import QParams, channel_scales
from optimize.training import distributed
from optimize.utils.bars import bar

_BATCH = 64
_FOLLOW = 0.05  # share of the newest batch in a range while training


class _RoundedWeight(nn.Module):
    """Weights rounded to int8 per output channel; the gradient passes straight through.

    Batch normalisation scales whole channels, so rounding before or after folding is the same.
    """

    def forward(self, weight: Tensor) -> Tensor:
        scale = channel_scales(weight.detach()).float()
        zero = torch.zeros(len(scale), dtype=torch.int32, device=weight.device)
        rounded = torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127)
        return rounded.to(weight.dtype)


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that static int8 has kernels for, by name."""
    kinds = (nn.Conv2d, nn.Linear)
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds)}


def input_ranges(
    model: nn.Module, calibration: Inputs, ranges: Ranges = "mse"
) -> dict[str, QParams | None]:
    """How every layer's input would be quantized; None for what reads the pixels as they are."""
    seen: dict[str, Histogram] = {name: Histogram() for name in layers(model)}
    order: list[str] = []
    widening = True

    def observe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            order.append(name)
            x = given[0].float()
            seen[name].widen(x) if widening else seen[name].count(x)

        return hook

    handles = [m.register_forward_pre_hook(observe(n)) for n, m in layers(model).items()]
    model.eval()
    try:
        with torch.no_grad():
            for widening in (True, False):  # noqa: B007 - the hooks read it
                for batch in split(calibration, _BATCH):
                    model(*as_tuple(batch))
    finally:
        for handle in handles:
            handle.remove()
    exact = (
        order[0]
        if order and isinstance(calibration, Tensor) and calibration.dtype == torch.uint8
        else None
    )
    called = set(order)
    return {
        name: None if name == exact else histogram.chosen(ranges)
        for name, histogram in seen.items()
        if name in called
    }


class _RoundedInput:
    """A forward pre-hook: inputs rounded to uint8, in a range that follows the data.

    While the layer trains the range moves with the batches (Jacob et al. 2018); it stays in the
    layer, as a buffer, so that checkpoints hold it.
    """

    def __init__(self, module: nn.Module, qparams: QParams) -> None:
        module.register_buffer("input_range", torch.tensor(qparams.range()))
        self.clip: Tensor | None = None  # the chosen range over the observed one

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, kept = given[0].float(), module.get_buffer("input_range")
        if module.training:
            with torch.no_grad():
                low, high = torch.aminmax(x)
                seen = distributed.averaged(torch.stack([low.clamp(max=0), high.clamp(min=0)]))
                if self.clip is None:
                    self.clip = (kept / seen).nan_to_num(1.0, 1.0, 1.0).clamp(0.2, 1.0)
                kept.lerp_(seen * self.clip, _FOLLOW)
        low, high = kept.tolist()
        qparams = QParams.covering(low, high)
        x = torch.fake_quantize_per_tensor_affine(x, qparams.scale, qparams.zero_point, 0, 255)
        return (x.to(given[0].dtype), *given[1:])


@contextmanager
def fake_quantized(
    model: nn.Module,
    qparams: dict[str, QParams | None],
    only: Collection[str] | None = None,
) -> Iterator[None]:
    """Within the block `model` computes as if its layers were int8; afterwards its weights are
    the rounded ones.

    Args:
        model: changed in place.
        qparams: from `input_ranges`.
        only: names of the layers; all by default.
    """
    modules = layers(model)
    chosen = [name for name in qparams if only is None or name in only]

    handles = []
    for name in chosen:
        parametrize.register_parametrization(modules[name], "weight", _RoundedWeight())
        input_qparams = qparams[name]
        if input_qparams is not None:
            hook = _RoundedInput(modules[name], input_qparams)
            handles.append(modules[name].register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for name in chosen:
            parametrize.remove_parametrizations(modules[name], "weight")
            if qparams[name] is not None:
                del modules[name].input_range


def quantization_table(
    model: nn.Module,
    calibration: Inputs,
    *,
    accuracy: Callable[[nn.Module], float] | None = None,
    ranges: Ranges = "mse",
) -> list[dict[str, Any]]:
    """What int8 in one layer alone costs.

    Args:
        model: float32; left as it is.
        calibration: real inputs `[N, ...]`, one tensor or a tuple of several.
        accuracy: of a model; the table has no drops without it.
        ranges: how ranges follow from the calibration data.

    Returns:
        A row for every layer, the costliest first: `{"layer", "error", "drop"}`; error is the
        norm of the answers' change over the norm of the answers.

    Raises:
        OptionError: the model has no layer that int8 kernels exist for.
    """
    model = copy.deepcopy(model).eval()
    qparams = input_ranges(model, calibration, ranges)
    if not qparams:
        raise OptionError("this model has no convolution or linear layer to quantize")
    whole = accuracy(model) if accuracy is not None else 0.0
    wanted = _answers(model, calibration)
    rows = []
    for name in qparams:
        trial = copy.deepcopy(model)
        with fake_quantized(trial, qparams, only=[name]):
            change = _answers(trial, calibration) - wanted
            row: dict[str, Any] = {"layer": name, "error": (change.norm() / wanted.norm()).item()}
            if accuracy is not None:
                row["drop"] = whole - accuracy(trial)
        rows.append(row)
    return sorted(rows, key=lambda row: -row["error"])


def _answers(model: nn.Module, calibration: Inputs) -> Tensor:
    """All floating-point outputs for all inputs, one after another."""
    with torch.inference_mode():
        answers = [
            answer.float().flatten()
            for batch in bar(split(calibration, _BATCH), title="sensitivity", unit="batch")
            for answer in pytree.tree_leaves(model(*as_tuple(batch)))
            if answer.is_floating_point()
        ]
    return torch.cat(answers)
