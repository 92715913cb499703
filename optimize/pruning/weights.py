"""Unstructured pruning: single weights become zero (Han et al. 2015).

The tensors keep their shapes, so it buys no speed on CPUs; the compressed file shrinks.
"""

import copy
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

NO_SPEED = (
    "structure: weights only sets weights to zero: the compressed file shrinks, the model gets "
    "no faster; for speed use structure: channels"
)


def _weights(model: nn.Module, keep: Iterable[str]) -> dict[str, Tensor]:
    kept = set(keep)
    return {
        name: module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and name not in kept
    }


def zero_smallest(
    model: nn.Module, ratio: float, *, per_layer: bool = False, keep: Iterable[str] = ()
) -> nn.Module:
    """Set the `ratio` of weights that are smallest in magnitude to zero; returns a new module.

    Args:
        model: left as it is.
        ratio: share of the weights of convolutions and linear layers.
        per_layer: the same share of every layer, instead of one threshold for all.
        keep: names of layers to leave alone.
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
def held(model: nn.Module) -> Iterator[None]:
    """Weights that are zero stay zero while `model` trains within the block."""
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
