"""Small questions about nodes of a captured graph."""

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

# The same numbers in another shape, in any dtype.
VIEWS = (
    aten.view.default,
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


def copy_call(graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
    """Copy one operator call so that a trace of it keeps the batch size free.

    `view` becomes `reshape`, as memory layouts differ from the captured ones, with -1 for the
    batch; other calls that take a size become tensor methods, whose size arguments are traced.
    """
    target: Any = node.target
    if target in (aten.view.default, aten.reshape.default):
        shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
        if shape.count(-1) <= 1:
            return graph.call_function(torch.reshape, (args[0], shape))
        return graph.call_method("reshape", args)
    sized = any(
        isinstance(size, fx.Node) for arg in args[1:] if isinstance(arg, list) for size in arg
    )
    if isinstance(target, torch._ops.OpOverload):
        name = target.overloadpacket.__name__
        if sized and hasattr(torch.Tensor, name):
            return graph.call_method(name, args, kwargs)
        return graph.call_function(target.overloadpacket, args, kwargs)
    return graph.call_function(target, args, kwargs)


def feeds_attention(node: fx.Node) -> bool:
    """Whether what is read of `node` goes nowhere but into attention, through views at most."""
    attention = aten.scaled_dot_product_attention.default
    return bool(node.users) and all(
        user.target is attention or (user.target in VIEWS and feeds_attention(user))
        for user in node.users
    )
