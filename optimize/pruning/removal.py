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
from torch.utils import _pytree as pytree

from optimize.lowering.inputs import Inputs, as_tuple
from optimize.pruning.graph import remove
from optimize.pruning.sum_norm import SumNorm

Plan = dict[str, list[int]]
"""The output channels to remove, by the name of the layer that writes them."""


def without(
    model: nn.Module,
    example: Inputs,
    plan: Plan,
    accept: Callable[[nn.Module], bool] = lambda smaller: True,
) -> tuple[nn.Module, Plan]:
    """The model without the channels of as many layers of `plan` as can be removed.

    Args:
        model: in eval mode; left as it is.
        example: an input `[1, ...]`; a tuple of several.
        plan: what to remove.
        accept: whether a smaller model, with the weights of `model`, will do.

    Returns:
        A new module, and the part of the plan that was carried out.
    """
    tried = _Trials(model, example, accept)
    if tried(plan) is not None:
        together = plan
    else:
        together = {}
        for block in tried.blocks(plan):
            if tried({**together, **block}) is not None:
                together = {**together, **block}
    smaller = tried(together)
    return (copy.deepcopy(model), {}) if smaller is None else (smaller, together)


class _Trials:
    """Removals from one model, each tried once."""

    def __init__(
        self, model: nn.Module, example: Inputs, accept: Callable[[nn.Module], bool]
    ) -> None:
        self.model, self.example, self.accept = model, example, accept
        self.inputs = inputs_like(example, model)
        self.probe = probe(model)
        if not same(self.probe, self.probe, self.inputs[-1:], 0.0, summed=True):
            self.probe = model  # random weights give no numbers here
        self.last: tuple[Plan, nn.Module | None] = {}, None

    def __call__(self, plan: Plan) -> nn.Module | None:
        """The model without the channels; None where that is no right model."""
        if plan != self.last[0]:
            self.last = plan, self._smaller(plan)
        return self.last[1]

    def blocks(self, plan: Plan) -> Iterator[Plan]:
        """Parts of the plan that can be removed, from layers of repeated blocks together."""
        alike: dict[str, Plan] = {}
        for name, channels in plan.items():
            alike.setdefault(re.sub(r"\d+", "#", name), {})[name] = channels
        for part in alike.values():
            yield from self._halved(part, alone=len(alike) == 1)

    def _halved(self, part: Plan, alone: bool) -> Iterator[Plan]:
        if not alone and self(part) is not None:
            yield part
        elif len(part) > 1:
            ends = next(iter(part)), list(part)[-1]
            # What breaks a layer of the first block and of the last breaks those between.
            if len(part) > 3 and all(self({name: part[name]}) is None for name in ends):
                return
            names = list(part)
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                yield from self._halved({name: part[name] for name in half}, alone=False)

    def _smaller(self, plan: Plan) -> nn.Module | None:
        smaller, zeroed = copy.deepcopy(self.model), copy.deepcopy(self.probe)
        try:
            # Where tensors hold the positions of their entries, what is left says what went.
            remove(smaller, self.example, plan, ready=lambda: _number(smaller))
            left = {name: tensor.detach().long() for name, tensor in _tensors(smaller)}
            _zero(zeroed, left)
            tried = copy.deepcopy(smaller)  # layers may keep what they computed from weights
            _fill(tried, self.probe, left)
            if not same(zeroed, tried, self.inputs[-1:], 1e-3, summed=True):
                return None
            _fill(smaller, self.model, left)
            shaped = same(self.model, smaller, self.inputs[:1], None)
            return smaller if shaped and self.accept(smaller) else None
        except Exception:  # the model's code is the user's, and can raise anything
            return None


def probe(model: nn.Module) -> nn.Module:
    """A copy with random weights, in which every channel matters: real ones may be near zero."""
    # In eval mode anew: some layers forget then what they computed from weights before.
    copied, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(0)
    for name, tensor in _tensors(copied):
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


def inputs_like(example: Inputs, model: nn.Module) -> list[Inputs]:
    """The example, and three inputs at once if the model takes them: for pixels and floats random
    ones."""
    generator = torch.Generator().manual_seed(0)

    def like(given: Tensor) -> Tensor:
        size = (3, *given.shape[1:])
        if given.dtype == torch.uint8:
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        if given.is_floating_point():
            return torch.randn(size, generator=generator).to(given.dtype)
        return given.expand(size)

    several = tuple(like(given) for given in as_tuple(example))
    three = several[0] if isinstance(example, Tensor) else several
    try:
        with torch.no_grad():
            model(*several)
    except Exception:  # the user's code can raise anything
        return [example]
    return [example, three]


def same(
    model: nn.Module,
    other: nn.Module,
    inputs: list[Inputs],
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
            with torch.no_grad(), SumNorm() if summed else nullcontext():
                expected, answers = (pytree.tree_leaves(m(*as_tuple(x))) for m in (model, other))
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


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of all that can have channels and is saved."""
    saved = model.state_dict(keep_vars=True)
    for prefix, module in model.named_modules():
        for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
            full = f"{prefix}.{name}" if prefix else name
            if tensor is not None and full in saved and tensor.is_floating_point():
                yield full, tensor


def _number(model: nn.Module) -> None:
    for _, tensor in _tensors(model):
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)


def _zero(model: nn.Module, left: dict[str, Tensor]) -> None:
    """Set all entries to zero but those at the positions in `left`."""
    with torch.no_grad():
        for name, tensor in _tensors(model):
            gone = torch.ones(tensor.numel(), dtype=torch.bool)
            gone[left[name].flatten()] = False
            tensor.masked_fill_(gone.view_as(tensor), 0)


def _fill(smaller: nn.Module, source: nn.Module, left: dict[str, Tensor]) -> None:
    """Give `smaller` the entries of `source` at the positions in `left`."""
    values = dict(_tensors(source))
    for name, tensor in _tensors(smaller):
        value = values[name].detach()
        tensor.data = value.flatten()[left[name].flatten()].view(left[name].shape)
        if isinstance(tensor, nn.Parameter):
            tensor.requires_grad_(values[name].requires_grad)
