"""Small questions about nodes of a captured graph."""

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from optimize.errors import ModelError

aten = torch.ops.aten

# The same numbers in another shape, in any dtype.
VIEWS = (
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.transpose.int,
    aten.permute.default,
    aten.unbind.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    operator.getitem,
)


_SEQUENCES = (
    aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input,
)  # fmt: skip
RECURRENT = (
    *_SEQUENCES,
    aten.lstm_cell.default,
    aten.gru_cell.default,
    aten.rnn_tanh_cell.default,
    aten.rnn_relu_cell.default,
)
_FACTORIES = ("zeros", "ones", "full", "empty", "arange", "rand", "randn", "eye", "linspace")
# Functions whose sizes are traced and that are no methods.
_SIZED: dict[str, Any] = {"slice": torch.slice_copy}


def layer_name(node: fx.Node) -> str:
    """The dotted name of the layer a node came from, as `named_modules()` spells it."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [name for name, _ in stack.values() if name and not name.startswith("_empty_nn")]
    return names[-1] if names else node.name


def is_named(name: str, names: Collection[str]) -> bool:
    """Whether `names` holds the layer or a module that contains it; "" is the whole model."""
    return any(name == n or not n or name.startswith(f"{n}.") for n in names)


def constant(module: fx.GraphModule, node: object) -> Tensor | None:
    """The parameter or buffer that `node` reads, None when it is not one."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: object = module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach() if isinstance(value, Tensor) else None


def arguments(node: fx.Node) -> list:  # type: ignore[type-arg]
    """All arguments of an operator call by position, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    filled = []
    for index, argument in enumerate(schema.arguments):
        if index < len(node.args):
            filled.append(node.args[index])
        else:
            filled.append(node.kwargs.get(argument.name, argument.default_value))
    for index, value in enumerate(filled):
        width = 2 if "conv" in str(node.target) else 0
        if width and isinstance(value, (list, tuple)) and len(value) == 1:
            filled[index] = list(value) * width
    return filled


def replace_constant(module: fx.GraphModule, node: fx.Node, kind: str, tensor: Tensor) -> fx.Node:
    """Store `tensor` as a buffer of `module` and read it just before `node`."""
    name = f"settled_{node.name}_{kind}"
    module.register_buffer(name, tensor)
    with module.graph.inserting_before(node):
        read = module.graph.get_attr(name)
    read.meta["val"] = tensor
    return read


def copy_call(
    graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any, *, scripted: bool = False
) -> fx.Node:
    """Copy one operator call so that a trace of it keeps the batch size free.

    `reshape` gets -1 for the batch; other calls that take a size become tensor methods or
    functions of `torch`, whose size arguments are traced: those of `torch.ops` are not, and a
    file would hold the batch size of the example.

    Args:
        scripted: the graph will be scripted, not traced: all sizes stay free by themselves.

    Raises:
        ModelError: the operator cannot be traced with a free size.
    """
    target: Any = node.target
    if target in RECURRENT:
        args = _with_safe_states(graph, node, args)
    if target is aten.reshape.default:
        shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
        if shape.count(-1) <= 1:
            return graph.call_function(torch.reshape, (args[0], shape))
        return graph.call_method("reshape", args)
    if isinstance(target, torch._ops.OpOverload):
        name = target.overloadpacket.__name__
        if not _takes_a_size(node):
            return graph.call_function(target.overloadpacket, args, kwargs)
        if name in _FACTORIES:
            kwargs = {k: v for k, v in kwargs.items() if k == "dtype"}  # all is on the CPU
            return graph.call_function(getattr(torch, name), args, kwargs)
        if hasattr(torch.Tensor, name):
            return graph.call_method(name, args, kwargs)
        if scripted:
            return graph.call_function(target.overloadpacket, args, kwargs)
        free = _SIZED.get(name, getattr(torch, name, None))
        if free is None:
            raise ModelError(
                f"layer {layer_name(node)}: {target} takes the batch size, which would be fixed "
                "in a file; write it with operators of torch, or leave the quantize stage out"
            )
        return graph.call_function(free, args, kwargs)
    return graph.call_function(target, args, kwargs)


def _takes_a_size(node: fx.Node) -> bool:
    """Whether an argument is a number that follows from the batch size."""
    return any(
        n.op != "get_attr" and isinstance(n.meta.get("val"), (torch.SymInt, int))
        for n in node.all_input_nodes
    )


def _with_safe_states(graph: fx.Graph, node: fx.Node, args: Any) -> tuple[Any, ...]:
    """The arguments of a recurrent layer, each initial state expanded to its input's batch.

    torch's kernels take the states' batch size on trust, and read and write beyond them when the
    input's is greater. Expanding costs nothing, and raises an error where sizes differ.
    """
    x, states, *rest = args
    whole = node.target in _SEQUENCES
    first = whole and not arguments(node)[-1]  # the length is the first dimension, then the batch
    batch = graph.call_method("size", (x, 1 if first else 0))

    def safe(state: fx.Node) -> fx.Node:
        sizes = (-1, batch, -1) if whole else (batch, -1)
        return graph.call_method("contiguous", (graph.call_method("expand", (state, *sizes)),))

    safely = [safe(s) for s in states] if isinstance(states, (list, tuple)) else safe(states)
    return (x, safely, *rest)


def feeds_attention(node: fx.Node) -> bool:
    """Whether what is read of `node` goes nowhere but into attention, through views at most."""
    attention = aten.scaled_dot_product_attention.default
    return bool(node.users) and all(
        user.target is attention or (user.target in VIEWS and feeds_attention(user))
        for user in node.users
    )
