"""Unstructured pruning: single weights are set to zero (Han et al. 2015).

The tensors keep their shapes, so it brings no speed on CPUs, but the compressed file shrinks.
"""

import copy
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from optimize.pruning.graph import CONVOLUTIONS

NO_SPEED = (
    "structure: weights only sets weights to zero: the compressed file shrinks, the model gets "
    "no faster; for speed use structure: channels"
)


def _weights(model: nn.Module, skip: Iterable[str]) -> dict[str, Tensor]:
    skipped = set(skip)
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS | nn.Linear) and name not in skipped
    }


def zero_smallest(
    model: nn.Module, ratio: float, *, per_layer: bool = False, keep: Iterable[str] = ()
) -> nn.Module:
    """Set the share `ratio` of weights of least magnitude to zero; returns a new module.

    Args:
        model: left as it is.
        ratio: share of the weights of convolutions and linear layers.
        per_layer: the same share of every layer, instead of one threshold for all layers.
        keep: names of layers to leave as they are.
    """
    pruned = copy.deepcopy(model).eval()
    weights = _weights(pruned, keep)
    with torch.no_grad():
        for group in [[w] for w in weights.values()] if per_layer else [list(weights.values())]:
            magnitudes = torch.cat([w.abs().flatten() for w in group])
            count = int(ratio * len(magnitudes))
            if count:
                threshold = magnitudes.kthvalue(count).values
                for weight in group:
                    weight.masked_fill_(weight.abs() <= threshold, 0.0)
    return pruned


def zeros(model: nn.Module) -> dict[str, float]:
    """The share of zero weights of every convolution and linear layer, by name."""
    return {
        name: (weight == 0).float().mean().item() for name, weight in _weights(model, ()).items()
    }


@contextmanager
def zeros_held(model: nn.Module) -> Iterator[None]:
    """Hold zero weights at zero while `model` trains within the block."""
    masks = [(weight, weight.detach() != 0) for weight in _weights(model, ()).values()]

    handles = []
    for weight, mask in masks:
        weight.requires_grad_(True)
        handles.append(weight.register_hook(functools.partial(torch.mul, mask)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
