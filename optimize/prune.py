"""Structured pruning: channels are removed from the tensors, not masked.

The dependency graph of torch-pruning (Fang et al. 2023) finds which channels of which layers
go together.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from optimize.errors import ModelError


@dataclass(frozen=True)
class PruneOptions:
    """What to remove.

    Attributes:
        ratio: share of channels to remove from every layer (or on the whole, if `scope` is
            global).
        importance: how a channel's worth is estimated: `magnitude` is the L2 norm of its
            group (Li et al. 2017), `bn_scale` the normalisation's gain (Liu et al. 2017).
        scope: `layer` prunes every layer alike, `global` ranks channels across layers.
        round_to: widths stay multiples of this, which int8 kernels like (16).
    """

    ratio: float = 0.5
    importance: Literal["magnitude", "bn_scale"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    round_to: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1 or self.round_to < 1:
            raise ValueError("ratio must be between 0 and 1, and round_to 1 or more")


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, by name."""
    return {
        name: int(module.weight.shape[0])
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _last_layers(model: nn.Module, example: Tensor) -> list[nn.Module]:
    """Layers whose output width is the model's own: the classifier must keep its classes."""
    with torch.no_grad():
        classes = model(example).shape[-1]
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [m for m in linear[-1:] if m.weight.shape[0] == classes]


def prune(model: nn.Module, example: Tensor, options: PruneOptions | None = None) -> nn.Module:
    """Remove channels; returns a new module with smaller tensors, in eval mode.

    Args:
        model: a float module; left as it is.
        example: an input `[1, ...]` to trace dependencies with.
        options: see `PruneOptions`.

    Raises:
        ModelError: the model's layers cannot be traced, or nothing could be removed.
    """
    with warnings.catch_warnings():  # torch-pruning imports deprecated torch names
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch_pruning as tp

    options = options or PruneOptions()
    pruned = copy.deepcopy(model).eval()
    importances = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn_scale": lambda: tp.importance.BNScaleImportance(),
    }
    before = widths(pruned)
    for parameter in pruned.parameters():  # the tracer follows gradients
        parameter.requires_grad_(True)
    try:
        with warnings.catch_warnings():  # it warns of buffers, which do not have channels here
            warnings.simplefilter("ignore", UserWarning)
            pruner = tp.pruner.BasePruner(
                pruned,
                example,
                importance=importances[options.importance](),
                pruning_ratio=options.ratio,
                global_pruning=options.scope == "global",
                ignored_layers=_last_layers(pruned, example),
                round_to=options.round_to,
            )
            pruner.step()
        with torch.no_grad():
            pruned(example)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the channels of this model cannot be traced ({error}); leave out the prune stage"
        ) from error
    if widths(pruned) == before:
        raise ModelError(
            f"ratio {options.ratio} with round_to {options.round_to} removes no channel: "
            "raise the ratio or lower round_to"
        )
    return pruned
