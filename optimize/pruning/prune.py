"""Channel pruning: channels are removed from the tensors, not masked.

Dead channels are removed first, which is exact; then the least important ones, at once or in
steps with training in between.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.dataset import Split
from optimize.errors import ModelError, OptionError
from optimize.pruning.dead import remove_dead
from optimize.pruning.graph import fixed_layers, torch_pruning, tracing, widths
from optimize.pruning.weights import NO_SPEED, zero_smallest
from optimize.recipe.schema import explored

__all__ = ["PruneOptions", "prune", "widths"]

# Trains the pruned model in place after a step; takes the model and the step, from 0.
Recover = Callable[[nn.Module, int], object]


@dataclass(frozen=True)
class PruneOptions:
    """What to remove.

    Attributes:
        ratio: share of channels to remove from every layer (or in total, if `scope` is
            global); 0 removes dead channels only.
        importance: how a channel's importance is estimated: `magnitude` is the L2 norm of its
            group (Li et al. 2017), `bn_scale` the normalisation's gain (Liu et al. 2017),
            `taylor` weight times gradient on training data (Molchanov et al. 2019).
        scope: `layer` prunes every layer by the same ratio, `global` ranks channels across layers.
        round_to: widths stay multiples of this; 16 suits int8 kernels.
        structure: `channels` makes tensors smaller; `weights` sets the weights of least magnitude
            to zero, which shrinks the compressed file but brings no speed.
        iterations: number of equal steps to reach the ratio, with recovery after each.
        samples: training inputs that `taylor` computes gradients on.
        keep: names of layers whose width must not change.
    """

    ratio: float = field(default=0.5, metadata=explored(0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75))
    importance: Literal["magnitude", "bn_scale", "taylor"] = field(
        default="magnitude", metadata=explored()
    )
    scope: Literal["layer", "global"] = field(default="layer", metadata=explored())
    round_to: int = 16
    structure: Literal["channels", "weights"] = "channels"
    iterations: int = 1
    samples: int = 512
    keep: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1 or self.round_to < 1:
            raise ValueError("ratio must be between 0 and 1, and round_to 1 or more")
        if self.iterations < 1 or self.samples < 1:
            raise ValueError("iterations and samples start at 1")
        if self.structure == "weights" and self.importance != "magnitude":
            raise ValueError("structure: weights goes by magnitude; leave importance out")


def prune(
    model: nn.Module,
    example: Tensor,
    options: PruneOptions | None = None,
    *,
    split: Split | None = None,
    recover: Recover | None = None,
) -> nn.Module:
    """Remove channels; returns a new module with smaller tensors, in eval mode.

    Args:
        model: a float module; left as it is.
        example: an input `[1, ...]` to trace dependencies with.
        options: see `PruneOptions`.
        split: training inputs and labels, which `taylor` needs.
        recover: called after every step with the model to train in place.

    Raises:
        ModelError: the model's layers cannot be traced, or nothing could be removed.
        OptionError: an option does not fit this model.
    """
    options = options or PruneOptions()
    if options.structure == "weights":
        warnings.warn(NO_SPEED, UserWarning, stacklevel=2)
        return _prune_weights(model, options, recover)
    _check(model, options, split)
    pruned, _ = remove_dead(model, example, keep=tuple(options.keep), round_to=options.round_to)
    if options.ratio:
        _prune_channels(pruned, example, options, split, recover, widths(model))
    elif recover is not None:
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
    fixed_layers_exist(model, options.keep)
    pruned = copy.deepcopy(model).eval()
    for step in range(options.iterations):
        ratio = options.ratio * (step + 1) / options.iterations
        by_layer = options.scope == "layer"
        pruned = zero_smallest(pruned, ratio, per_layer=by_layer, keep=options.keep)
        if recover is not None:
            recover(pruned, step)
    return pruned.eval()


def fixed_layers_exist(model: nn.Module, keep: list[str]) -> None:
    """Raise OptionError if `keep` names a layer that is not there."""
    missing = [name for name in keep if name not in widths(model)]
    if missing:
        raise OptionError(
            f"keep: there is no layer {missing[0]!r}; there are {', '.join(widths(model))}"
        )


def _prune_channels(
    pruned: nn.Module,
    example: Tensor,
    options: PruneOptions,
    split: Split | None,
    recover: Recover | None,
    before: dict[str, int],
) -> None:
    """Prune in place."""
    tp = torch_pruning()
    importance: Any = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn_scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }[options.importance]()
    for parameter in pruned.parameters():  # the tracer follows gradients
        parameter.requires_grad_(True)
    with tracing():
        pruner = tp.pruner.BasePruner(
            pruned,
            example,
            importance=importance,
            **_ratios(pruned, before, options),
            global_pruning=options.scope == "global",
            iterative_steps=options.iterations,
            ignored_layers=fixed_layers(pruned, example, options.keep),
            round_to=options.round_to,
        )
    for step in range(options.iterations):
        if split is not None and options.importance == "taylor":
            _gradients(pruned, split, options.samples)
        with tracing():
            pruner.step()
            with torch.no_grad():
                pruned.eval()(example)
        pruned.zero_grad(set_to_none=True)
        last = step == options.iterations - 1
        if last and widths(pruned) == before:
            raise ModelError(
                f"ratio {options.ratio} with round_to {options.round_to} removes no channel: "
                "raise the ratio or lower round_to"
            )
        if recover is not None:
            recover(pruned, step)


def _ratios(pruned: nn.Module, before: dict[str, int], options: PruneOptions) -> dict[str, Any]:
    """Ratios for the current widths that, with dead channels counted, reach `options.ratio`."""
    now, modules = widths(pruned), dict(pruned.named_modules())

    def remaining_ratio(original: int, current: int) -> float:
        return max(0.0, 1 - (1 - options.ratio) * original / current)

    if options.scope == "global":
        return {"pruning_ratio": remaining_ratio(sum(before.values()), sum(now.values()))}
    changed = {modules[n]: remaining_ratio(before[n], now[n]) for n in now if now[n] != before[n]}
    return {"pruning_ratio": options.ratio, "pruning_ratio_dict": changed}


def _gradients(model: nn.Module, split: Split, samples: int) -> None:
    """Set the parameters' gradients of the cross entropy on evenly spaced samples."""
    model.eval().zero_grad(set_to_none=True)
    chosen = torch.linspace(0, len(split) - 1, min(samples, len(split))).long()
    for index in chosen.split(128):
        loss = F.cross_entropy(model(split.inputs[index]), split.targets[index], reduction="sum")
        loss.backward()
