"""Removal of channels that is tried before it is trusted.

torch-pruning follows channels through convolutions, sums and concatenations, and takes most other
operations for elementwise ones. Where that is wrong (a shuffle, a slice, a width written into the
code) the model breaks, or goes on with channels that do not belong together. So each removal is
made on a copy, whose answers must be those of the whole model with the same weights set to zero.
"""

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from optimize.errors import ModelError
from optimize.pruning.graph import remove

Plan = dict[str, list[int]]
"""The output channels to remove, by the name of the layer that writes them."""


def without(
    model: nn.Module,
    example: Tensor,
    plan: Plan,
    accept: Callable[[nn.Module], bool] = lambda smaller: True,
) -> tuple[nn.Module, Plan]:
    """The model without the channels of as many layers of `plan` as can be removed.

    Args:
        model: in eval mode; left as it is.
        example: an input `[1, ...]`.
        plan: what to remove.
        accept: whether a smaller model, with the weights of `model`, will do.

    Returns:
        A new module, and the part of the plan that was carried out.
    """
    tried = _Trials(model, example, accept)
    # Layers of repeated blocks stand together: what breaks one breaks all of them.
    alike = {name: re.sub(r"\d+", "#", name) for name in plan}
    ordered = {name: plan[name] for name in sorted(plan, key=lambda name: alike[name])}
    blocks = list(tried.blocks(ordered))
    together = _joined(blocks)
    if tried(together) is None:
        together = {}
        for block in blocks:
            if tried({**together, **block}) is not None:
                together = {**together, **block}
    smaller = tried(together)
    return (copy.deepcopy(model), {}) if smaller is None else (smaller, together)


class _Trials:
    """Removals from one model, each tried once."""

    def __init__(
        self, model: nn.Module, example: Tensor, accept: Callable[[nn.Module], bool]
    ) -> None:
        self.model, self.example, self.accept = model, example, accept
        self.inputs = inputs_like(example, model)
        self.probe = probe(model)
        if not same(self.probe, self.probe, self.inputs, 0.0, summed=True):
            self.probe = model  # random weights give no numbers here
        self.last: tuple[Plan, nn.Module | None] = {}, None

    def __call__(self, plan: Plan) -> nn.Module | None:
        """The model without the channels; None where that is no right model."""
        if plan != self.last[0]:
            self.last = plan, self._smaller(plan)
        return self.last[1]

    def blocks(self, plan: Plan) -> Iterator[Plan]:
        """The largest parts of the plan, halved again and again, that can be removed."""
        if plan and self(plan) is not None:
            yield plan
        elif len(plan) > 1:
            names = list(plan)
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                yield from self.blocks({name: plan[name] for name in half})

    def _smaller(self, plan: Plan) -> nn.Module | None:
        smaller = copy.deepcopy(self.model)
        try:
            # Where tensors hold the positions of their entries, what is left says what went.
            remove(smaller, self.example, plan, ready=lambda: _number(smaller))
        except ModelError:
            return None
        left = {name: tensor.detach().long() for name, _, _, tensor in _tensors(smaller)}
        zeroed = copy.deepcopy(self.probe)
        with torch.no_grad():
            for name, _, _, tensor in _tensors(zeroed):
                gone = torch.ones(tensor.numel(), dtype=torch.bool)
                gone[left[name].flatten()] = False
                tensor.masked_fill_(gone.view_as(tensor), 0)
        _fill(smaller, self.probe, left)
        if not same(zeroed, smaller, self.inputs, 1e-3, summed=True):
            return None
        _fill(smaller, self.model, left)
        if not same(self.model, smaller, self.inputs, None) or not self.accept(smaller):
            return None
        return smaller


def probe(model: nn.Module) -> nn.Module:
    """A copy with random weights, in which every channel matters: real ones may be near zero."""
    copied, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for name, _, _, tensor in _tensors(copied):
        noise = torch.randn(tensor.shape, generator=generator)
        vector = tensor.numel() == max(tensor.shape, default=1)
        if vector and name.endswith(("bias", "running_mean")):
            noise = noise * 0.2
        elif vector:  # gains, variances and scales
            noise = 1 + 0.2 * noise.clamp(-3, 3)
        elif len(tensor) > 1:
            noise = noise * (len(tensor) / tensor.numel()) ** 0.5
        tensor.data = noise.to(tensor.dtype)
    return copied


def inputs_like(example: Tensor, model: nn.Module) -> list[Tensor]:
    """The example, and three inputs at once if the model takes them: for pixels and floats random
    ones."""
    generator = torch.Generator().manual_seed(0)
    size = (3, *example.shape[1:])
    if example.dtype == torch.uint8:
        three = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
    elif example.is_floating_point():
        three = torch.randn(size, generator=generator).to(example.dtype)
    else:
        three = example.expand(size)
    try:
        with torch.no_grad():
            model(three)
    except Exception:  # the user's code can raise anything
        return [example]
    return [example, three]


def same(
    model: nn.Module,
    other: nn.Module,
    inputs: list[Tensor],
    tolerance: float | None,
    *,
    summed: bool = False,
) -> bool:
    """Whether two models give answers of the same shapes, and the same answers.

    Args:
        model, other: in eval mode; the first runs on all inputs.
        inputs: of a call each.
        tolerance: largest difference, relative to the largest answer; None: compare shapes only.
        summed: normalise by sums over channels instead of means, which zeros do not change.
    """
    for x in inputs:
        try:
            with torch.no_grad(), _SumNorm() if summed else nullcontext():
                expected, answers = (pytree.tree_leaves(m(x)) for m in (model, other))
        except Exception:  # a width that is written into the code
            return False
        if len(expected) != len(answers):
            return False
        if not all(itertools.starmap(_alike(tolerance), zip(expected, answers, strict=True))):
            return False
    return True


def _alike(tolerance: float | None) -> Callable[[Any, Any], bool]:
    def alike(wanted: Any, answer: Any) -> bool:
        if not isinstance(wanted, Tensor) or not isinstance(answer, Tensor):
            return type(wanted) is type(answer)
        if wanted.shape != answer.shape or wanted.dtype != answer.dtype:
            return False
        if tolerance is None or not wanted.is_floating_point() or not wanted.numel():
            return True
        worst = (wanted - answer).abs().max()
        return bool(worst <= tolerance * wanted.abs().max().clamp(min=1e-6))

    return alike


class _SumNorm(TorchFunctionMode):
    """Layer, group and RMS normalisation without means: a channel of zeros changes nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.layer_norm, torch.layer_norm):
            return _sum_norm(*args[:4], **kwargs)
        if func in (F.rms_norm, torch.rms_norm):
            return _sum_norm(*args[:3], **kwargs)
        if func in (F.group_norm, torch.group_norm):
            return _sum_group_norm(*args[:4], **kwargs)
        return func(*args, **kwargs)


def _sum_norm(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    dimensions = tuple(range(-len(normalized_shape), 0))
    y = 8 * input / (input.square().sum(dimensions, keepdim=True) + 1e-5).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _sum_group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    y = _sum_norm(grouped, grouped.shape[2:]).view_as(input)
    shape = (1, -1, *[1] * (input.dim() - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


def _tensors(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """(full name, module, name, tensor) of all that can have channels and is saved."""
    saved = model.state_dict(keep_vars=True)
    for prefix, module in model.named_modules():
        for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
            full = f"{prefix}.{name}" if prefix else name
            if tensor is not None and full in saved and tensor.is_floating_point():
                yield full, module, name, tensor


def _number(model: nn.Module) -> None:
    for _, _, _, tensor in _tensors(model):
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)


def _fill(smaller: nn.Module, source: nn.Module, left: dict[str, Tensor]) -> None:
    """Give `smaller` the entries of `source` at the positions in `left`."""
    values = {name: tensor for name, _, _, tensor in _tensors(source)}
    for name, _, _, tensor in _tensors(smaller):
        value = values[name].detach()
        tensor.data = value.flatten()[left[name].flatten()].view(left[name].shape)
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(values[name].requires_grad)


def _joined(blocks: list[Plan]) -> Plan:
    return {name: channels for block in blocks for name, channels in block.items()}
