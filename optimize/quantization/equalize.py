"""Scales moved from activations into the weights that read them.

SmoothQuant (Xiao et al. 2023) between a layer and its readers, across ReLU as in cross-layer
equalisation (Nagel et al. 2019): exact in float32, easier to quantize.
"""

import copy
from itertools import starmap

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optimize.lowering.inputs import Inputs, as_tuple, rows, split
from optimize.pruning.graph import Coupled, coupled


def equalize(
    model: nn.Module, calibration: Inputs, alpha: float = 0.5
) -> tuple[nn.Module, list[str]]:
    """Divide every channel by `s` where it is written and multiply by it where it is read.

    `s = (largest activation) ** alpha / (largest weight that reads it) ** (1 - alpha)`, as in
    SmoothQuant. Pairs where it would change an answer (a ReLU6 or sigmoid between) are left.

    Args:
        model: float32, in eval mode; left as it is.
        calibration: real inputs `[N, ...]` for the activations.
        alpha: between 0 (all for the weights' sake) and 1 (all for the activations').

    Returns:
        A new module with the same answers, and the names of the layers that were scaled.

    Raises:
        ModelError: the model cannot be traced.
    """
    model = copy.deepcopy(model).eval()
    example = as_tuple(rows(calibration, 0, 1))
    trial = as_tuple(rows(calibration, 0, 16))
    largest = _largest_inputs(model, calibration)
    scaled = []
    groups = coupled(model, example)
    with torch.no_grad():
        wanted = pytree.tree_leaves(model(*trial))
        for group in groups:
            scale = _scale(group, largest, alpha)
            if scale is None:
                continue
            before = copy.deepcopy([m.state_dict() for m, _, _, _ in group.members])
            _apply(group, scale)
            found = pytree.tree_leaves(model(*trial))
            if all(starmap(_unchanged, zip(wanted, found, strict=True))):
                scaled.append(group.name)
                continue
            for (module, _, _, _), state in zip(group.members, before, strict=True):
                module.load_state_dict(state)
    return model, scaled


def _unchanged(wanted: Tensor, found: Tensor) -> bool:
    change = (found - wanted).abs().max()
    return bool(change <= 1e-4 * wanted.abs().max().clamp(min=1e-6))


def _largest_inputs(model: nn.Module, calibration: Inputs) -> dict[nn.Module, Tensor]:
    """The largest magnitude of every input channel of every convolution and linear layer."""
    found: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        x = given[0].detach().abs().float()
        flat = (
            x.flatten(0, -2) if isinstance(module, nn.Linear) else x.transpose(0, 1).flatten(1).t()
        )
        found[module] = torch.maximum(found.get(module, flat.amax(0)), flat.amax(0))

    handles = [
        m.register_forward_pre_hook(look)
        for m in model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.no_grad():
            for batch in split(calibration, 64):
                model(*as_tuple(batch))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _scale(group: Coupled, largest: dict[nn.Module, Tensor], alpha: float) -> Tensor | None:
    """The channels' factors; None where the group is not one writer with plain readers."""
    parts = [part for _, part, _, _ in group.members]
    readers = [(m, own, roots) for m, part, own, roots in group.members if part == "in"]
    plain = all(getattr(m, "groups", 1) == 1 and m in largest for m, _, _ in readers)
    others = [m for m, part, _, _ in group.members if part == "other"]
    weightless = all(next(m.parameters(), None) is None for m in others)
    if parts.count("out") != 1 or parts.count("norm") > 1 or not readers:
        return None
    if not plain or not weightless or not group.fits:
        return None
    activation, weight = torch.zeros(group.width), torch.zeros(group.width)
    for module, own, roots in readers:
        columns = module.weight.detach().transpose(0, 1).flatten(1).abs().amax(1).float()  # type: ignore[operator]
        index = torch.tensor(roots)
        activation.scatter_reduce_(0, index, largest[module][own], "amax")
        weight.scatter_reduce_(0, index, columns[own], "amax")
    scale = activation.pow(alpha) / weight.clamp(min=1e-9).pow(1 - alpha)
    usable = (activation > 1e-6) & (weight > 1e-6)
    scale = torch.where(usable, scale, 1.0)
    return scale / scale.log().mean().exp()  # what is common to all channels changes nothing


def _apply(group: Coupled, scale: Tensor) -> None:
    normed = any(part == "norm" for _, part, _, _ in group.members)
    for module, part, own, roots in group.members:
        factor = scale[roots]
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, Tensor):
            continue
        if part == "norm" or (part == "out" and not normed):
            weight[own] /= factor.view(-1, *[1] * (weight.dim() - 1))
            if isinstance(bias, Tensor):
                bias[own] /= factor
        elif part == "in":
            weight[:, own] *= factor.view(1, -1, *[1] * (weight.dim() - 2))
