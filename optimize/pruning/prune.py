"""Channel pruning: channels are removed from the tensors, not masked.

Dead channels are removed first, which is exact; then the least important ones, at once or in
steps with training in between.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from optimize.data.dataset import Split
from optimize.errors import ModelError, OptionError
from optimize.lowering.inputs import Inputs
from optimize.pruning.dead import remove_dead
from optimize.pruning.graph import Coupled, coupled, kept_layers, widths
from optimize.pruning.importance import channel_importance, least_important
from optimize.pruning.options import PruneOptions
from optimize.pruning.removal import without
from optimize.pruning.weights import NO_SPEED, zero_smallest
from optimize.utils.wording import few

__all__ = ["PruneOptions", "prune", "widths"]

# Trains the pruned model in place after a step; takes the model and the step, from 0.
Recover = Callable[[nn.Module, int], object]


def prune(
    model: nn.Module,
    example: Inputs,
    options: PruneOptions | None = None,
    *,
    split: Split | None = None,
    recover: Recover | None = None,
    details: dict[str, Any] | None = None,
) -> nn.Module:
    """Remove channels; returns a new module with smaller tensors, in eval mode.

    The model's outputs keep their shapes. Every removal is tried first: channels whose removal
    would change more than their own contribution stay.

    Args:
        model: a float module; left as it is.
        example: an input `[1, ...]` to trace dependencies with; a tuple of several.
        options: see `PruneOptions`.
        split: training inputs and labels, which `taylor` needs.
        recover: called after every step with the model to train in place.
        details: gets `dead`, the number of dead channels removed by layer, and `stuck`, the layers
            whose channels cannot be removed.

    Raises:
        ModelError: the model's layers cannot be traced, or nothing could be removed.
        OptionError: an option does not fit this model.
    """
    options, details = options or PruneOptions(), {} if details is None else details
    if not widths(model):
        raise ModelError(
            "the model has no convolution and no linear layer, so there is nothing to prune: put "
            "the prune stage before quantize, or leave it out"
        )
    if options.structure == "weights":
        warnings.warn(NO_SPEED, UserWarning, stacklevel=2)
        return _prune_weights(model, options, recover)
    _check(model, options, split)
    pruned, details["dead"] = remove_dead(
        model, example, keep=tuple(options.keep), round_to=options.round_to
    )
    if options.ratio:
        return _prune_channels(pruned, example, options, split, recover, widths(model), details)
    if recover is not None:
        recover(pruned, 0)
    return pruned.eval()


def _check(model: nn.Module, options: PruneOptions, split: Split | None) -> None:
    norms = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if options.importance == "bn_scale" and not norms:
        raise OptionError(
            "importance: bn_scale needs batch normalisation, and this model has none; use "
            "magnitude or taylor"
        )
    if options.importance == "taylor" and split is None:
        raise OptionError("importance: taylor needs training data for its gradients; use magnitude")


def _prune_weights(model: nn.Module, options: PruneOptions, recover: Recover | None) -> nn.Module:
    kept = kept_layers(model, options.keep)
    pruned = copy.deepcopy(model).eval()
    for step in range(options.iterations):
        ratio = options.ratio * (step + 1) / options.iterations
        by_layer = options.scope == "layer"
        pruned = zero_smallest(pruned, ratio, per_layer=by_layer, keep=kept)
        if recover is not None:
            recover(pruned, step)
    return pruned.eval()


def _prune_channels(
    pruned: nn.Module,
    example: Inputs,
    options: PruneOptions,
    split: Split | None,
    recover: Recover | None,
    before: dict[str, int],
    details: dict[str, Any],
) -> nn.Module:
    stuck: list[str] = []
    for step in range(options.iterations):
        if split is not None and options.importance == "taylor":
            _gradients(pruned, split, options.samples)
        ratio = options.ratio * (step + 1) / options.iterations
        groups = coupled(pruned, example, [*options.keep, *stuck])
        stuck += [group.name for group in groups if not group.fits]
        plan = least_important([g for g in groups if g.fits], before, options, ratio)
        pruned.zero_grad(set_to_none=True)
        pruned, done = without(pruned, example, plan)
        stuck += [name for name in plan if name not in done]
        last = step == options.iterations - 1
        if last and all(before[name] == width for name, width in widths(pruned).items()):
            raise ModelError(_why_nothing(groups, stuck, options))
        if recover is not None:
            recover(pruned, step)
    details["stuck"] = stuck
    return pruned.eval()


def _why_nothing(groups: list[Coupled], stuck: list[str], options: PruneOptions) -> str:
    """Why no channel was removed, and what to do."""
    if stuck:
        return (
            f"no channel can be removed here: without channels of {few(stuck)} the model fails, "
            "or answers otherwise than with their weights set to zero (widths that are written "
            "into its code, slices, shuffles, heads of attention, weights computed from others). "
            "Leave out the prune stage, or use structure: weights"
        )
    if not groups:
        return (
            "nothing is left to prune: every layer that can be traced feeds the model's outputs"
            f"{' or is named in keep' if options.keep else ''}. Leave out the prune stage, or use "
            "structure: weights"
        )
    if all(channel_importance(group, options.importance) is None for group in groups):
        return (
            f"importance: {options.importance} says nothing about the layers that can be pruned, "
            f"{few([group.name for group in groups])}: use another importance"
        )
    widest = max(group.width for group in groups)
    return (
        f"ratio {options.ratio} with round_to {options.round_to} removes no channel (the widest "
        f"layer that can be pruned has {widest}): raise the ratio or lower round_to"
    )


def _gradients(model: nn.Module, split: Split, samples: int) -> None:
    """Set the parameters' gradients of the cross entropy on evenly spaced samples."""
    model.eval().requires_grad_(True).zero_grad(set_to_none=True)
    chosen = torch.linspace(0, len(split) - 1, min(samples, len(split))).long()
    for index in chosen.split(128):
        loss = F.cross_entropy(model(split.inputs[index]), split.targets[index], reduction="sum")
        loss.backward()
