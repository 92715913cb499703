"""Channels that must be removed together: the dependency graph of torch-pruning
(Fang et al. 2023, "DepGraph: Towards Any Structural Pruning").
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimize.errors import ModelError, OptionError

_FAULTS = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError)


def torch_pruning() -> Any:
    """Import torch-pruning, which uses deprecated torch names, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch_pruning

    return torch_pruning


@contextmanager
def tracing() -> Iterator[None]:
    """Turn the errors of tracing a model into a `ModelError`."""
    try:
        with warnings.catch_warnings():  # it warns about buffers, which have no channels here
            warnings.simplefilter("ignore", UserWarning)
            yield
    except _FAULTS as error:
        raise ModelError(
            f"the channels of this model cannot be traced ({error}); leave out the prune stage, "
            "or use structure: weights"
        ) from error


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, by name."""
    return {
        name: int(module.weight.shape[0])
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def fixed_layers(model: nn.Module, example: Tensor, keep: Iterable[str]) -> list[nn.Module]:
    """Layers whose width must not change: those in `keep`, and the classifier.

    Raises:
        OptionError: `keep` names a layer that is not there.
    """
    modules = dict(model.named_modules())
    for name in keep:
        if name not in modules:
            layer_names = ", ".join(widths(model))
            raise OptionError(f"keep: there is no layer {name!r}; there are {layer_names}")
    with torch.no_grad():
        classes = model(example).shape[-1]
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    last = [m for m in layers[-1:] if m.weight.shape[0] == classes]
    return last + [modules[name] for name in keep]


@dataclass(frozen=True)
class Coupled:
    """Channels that can only be removed together, over all layers that share them.

    Attributes:
        name: of the layer torch-pruning starts from.
        width: its number of channels.
        members: (module, part, its channels, the channels of `name` they belong to); part is
            `out`, `in`, `norm` or `other`.
        remove: removes the given channels from every member.
        group: torch-pruning's own group.
    """

    name: str
    width: int
    members: list[tuple[nn.Module, str, list[int], list[int]]]
    remove: Callable[[list[int]], None]
    group: Any


def coupled(model: nn.Module, example: Tensor, fixed: list[nn.Module]) -> list[Coupled]:
    """Every set of coupled channels of `model` that may be removed.

    Raises:
        ModelError: the model cannot be traced.
    """
    tp = torch_pruning()
    for parameter in model.parameters():  # the tracer follows gradients
        parameter.requires_grad_(True)
    names = {module: name for name, module in model.named_modules()}
    with tracing():
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
        groups = list(graph.get_all_groups(ignored_layers=fixed))
    return [_coupled(tp, graph, group, names) for group in groups]


def _coupled(tp: Any, graph: Any, group: Any, names: dict[nn.Module, str]) -> Coupled:
    parts = {
        "out": (tp.prune_conv_out_channels, tp.prune_linear_out_channels),
        "in": (tp.prune_conv_in_channels, tp.prune_linear_in_channels),
        "norm": (tp.prune_batchnorm_out_channels,),
    }
    members = []
    for item, (dependency, indices) in zip(group.items, group, strict=True):
        part = next((k for k, handlers in parts.items() if dependency.handler in handlers), "other")
        members.append((dependency.target.module, part, list(indices), list(item.root_idxs)))
    root, handler = group[0].dep.target.module, group[0].dep.handler

    def remove(channels: list[int]) -> None:
        graph.get_pruning_group(root, handler, channels).prune()

    return Coupled(names[root], int(root.weight.shape[0]), members, remove, group)
