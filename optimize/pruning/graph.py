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
from torch.utils import _pytree as pytree

from optimize.errors import ModelError, OptionError
from optimize.lowering.inputs import Inputs, as_tuple
from optimize.pruning.recurrent import InputPruner, stand_ins
from optimize.utils import blame

CONVOLUTIONS = nn.modules.conv._ConvNd  # 1d, 2d, 3d, and transposed


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
    except ModelError:
        raise
    except Exception as error:  # the model's code is the user's, and can raise anything
        raise ModelError(
            f"the channels of this model cannot be traced ({blame.first_line(error)}); leave out "
            "the prune stage, or use structure: weights"
        ) from error


def widths(model: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, by name."""
    return {
        name: int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS | nn.Linear)
    }


def is_depthwise(module: nn.Module) -> bool:
    """Whether a layer is a convolution that keeps its channels apart."""
    return isinstance(module, CONVOLUTIONS) and 1 < module.groups == module.out_channels


def kept_layers(model: nn.Module, keep: Iterable[str]) -> list[str]:
    """Names of the layers that `keep` names, or that lie in modules it names.

    Raises:
        OptionError: there is no layer or module of that name.
    """
    names = [name for name, _ in model.named_modules()]
    for wanted in keep:
        if wanted not in names:
            layer_names = ", ".join(widths(model))
            raise OptionError(f"keep: there is no layer {wanted!r}; there are {layer_names}")
    return [n for n in names if any(n == k or n.startswith(f"{k}.") for k in keep)]


@dataclass(frozen=True)
class Coupled:
    """Channels that can only be removed together, over all layers that share them.

    Attributes:
        name: of the layer torch-pruning starts from.
        width: its number of channels.
        members: (module, part, its channels, the channels of `name` they belong to); part is
            `out`, `in`, `norm` or `other`.
        tied: how many channels of `name` go with its first one, as where a layer's output is cut
            into parts that are added up.
        fits: whether every layer has the channels that it is said to share. It is False where
            torch-pruning misread an operation (a slice, a padding).
        group: torch-pruning's own group.
    """

    name: str
    width: int
    members: list[tuple[nn.Module, str, list[int], list[int]]]
    tied: int
    fits: bool
    group: Any


def coupled(model: nn.Module, example: Inputs, keep: Iterable[str] = ()) -> list[Coupled]:
    """Every set of coupled channels of `model` that may be removed.

    Channels that reach an output of the model without passing another layer that mixes channels
    are outputs themselves and are not among them, whatever their layer is called and whenever it
    was made.

    Args:
        model: in eval mode.
        example: an input `[1, ...]`, or a tuple of several.
        keep: names of layers, or of modules that hold them, whose width must not change.

    Raises:
        ModelError: the model cannot be traced.
        OptionError: `keep` names a layer that is not there.
    """
    tp = torch_pruning()
    modules = dict(model.named_modules())
    kept = [modules[name] for name in kept_layers(model, keep)]
    graph, outputs = _traced(tp, model, example)
    names = {module: name for name, module in modules.items()}
    with tracing():
        groups = list(graph.get_all_groups(ignored_layers=outputs + kept))
        return [_coupled(tp, graph, group, names) for group in groups]


def remove(
    model: nn.Module,
    example: Inputs,
    plan: dict[str, list[int]],
    ready: Callable[[], object] = lambda: None,
) -> None:
    """Remove channels in place, with all that are coupled to them.

    Args:
        model: in eval mode.
        example: an input `[1, ...]`; a tuple of several.
        plan: the output channels to remove, by the layer's name.
        ready: called between tracing and removing.

    Raises:
        ModelError: torch-pruning cannot, or a layer would lose all its channels.
    """
    graph, _ = _traced(torch_pruning(), model, example)
    modules = dict(model.named_modules())
    ready()
    with tracing():
        for name, channels in plan.items():
            module = modules[name]
            prune_out = graph.get_pruner_of_module(module).prune_out_channels
            group = graph.get_pruning_group(module, prune_out, channels)
            if not graph.check_pruning_group(group):
                raise ValueError(f"{name} would lose all its channels")
            group.prune()


def _traced(tp: Any, model: nn.Module, example: Inputs) -> tuple[Any, list[nn.Module]]:
    """torch-pruning's graph, and the layers whose channels are the model's outputs."""
    ends: list[Any] = []

    def tensors(answers: Any) -> list[Tensor]:
        leaves = [a for a in pytree.tree_leaves(answers) if isinstance(a, Tensor) and a.grad_fn]
        if not leaves:
            raise ValueError("no output depends on a parameter")
        ends.extend(leaf.grad_fn for leaf in leaves)
        return leaves

    parameters = [p for p in model.parameters() if p.is_floating_point()]
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        with tracing(), torch.no_grad():
            model(*as_tuple(example))  # what a layer computes once and keeps must not hold a graph
        for parameter in parameters:  # the tracer follows gradients
            parameter.requires_grad_(True)
        recurrent = dict.fromkeys((nn.RNN, nn.GRU, nn.LSTM), InputPruner())
        with tracing(), torch.enable_grad(), stand_ins(model):
            graph = tp.DependencyGraph().build_dependency(
                model,
                example_inputs=example,
                forward_fn=lambda traced, given: traced(*as_tuple(given)),
                output_transform=tensors,
                customized_pruners=recurrent,
            )
            found = [node for node in graph.module2node.values() if node.grad_fn in ends]
            return graph, _feeding(found)
    finally:
        model.eval()  # some layers forget here what they keep
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.requires_grad_(flag)


def _feeding(outputs: list[Any]) -> list[nn.Module]:
    """Layers that mix channels and reach one of the nodes without passing another such layer."""
    mixing = (CONVOLUTIONS, nn.Linear, nn.RNNBase, nn.Embedding)
    waiting, seen = list(outputs), set()
    layers: list[nn.Module] = []
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.module, mixing) and not is_depthwise(node.module):
            layers.append(node.module)
        else:
            waiting += node.inputs
    return layers


def _coupled(tp: Any, graph: Any, group: Any, names: dict[nn.Module, str]) -> Coupled:
    parts = {
        "out": (tp.prune_conv_out_channels, tp.prune_linear_out_channels),
        "in": (tp.prune_conv_in_channels, tp.prune_linear_in_channels),
        "norm": (tp.prune_batchnorm_out_channels,),
    }
    members, fits = [], True
    for item, (dependency, indices) in zip(group.items, group, strict=True):
        part = next((k for k, handlers in parts.items() if dependency.handler in handlers), "other")
        node = dependency.target
        handler = dependency.handler
        inward = not graph.is_out_channel_pruning_fn(handler)  # norms' handlers are of both kinds
        channels = (graph.get_in_channels if inward else graph.get_out_channels)(node)
        fits = fits and (channels is None or max(indices, default=0) < channels)
        fits = fits and None not in item.root_idxs
        members.append((dependency.target.module, part, list(indices), list(item.root_idxs)))
    root, handler = group[0].dep.target.module, group[0].dep.handler
    tied = len(graph.get_pruning_group(root, handler, [0])[0].idxs)
    return Coupled(names[root], len(group[0].idxs), members, tied, fits, group)
