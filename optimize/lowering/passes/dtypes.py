"""Layers of float64 or bfloat16 weights between two casts, as kernels read and write float32."""

from collections.abc import Collection

import torch
from torch import Tensor, fx

from optimize.lowering.graphs import (
    arguments,
    aten,
    constant,
    is_named,
    layer_name,
    replace_constant,
)

_LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.linear.default)


def settle_dtypes(module: fx.GraphModule, apart: Collection[str] = ()) -> None:
    """Let layers whose weights are of another float type compute in float32, all but those named
    in `apart`; int8 is coarser than what float64 loses by it, and bfloat16 loses nothing.

    Between two such layers nothing is cast back and forth.
    """
    narrowed: dict[fx.Node, fx.Node] = {}  # results cast back, and what they are cast from
    for node in list(module.graph.nodes):
        if node.target is aten._to_copy.default and node.args[0] in narrowed:
            if node.kwargs == {"dtype": torch.float32}:
                node.replace_all_uses_with(narrowed[node.args[0]])
        elif node.target in _LAYERS and not is_named(layer_name(node), apart):
            _widen(module, node, narrowed)


def _widen(module: fx.GraphModule, node: fx.Node, narrowed: dict[fx.Node, fx.Node]) -> None:
    dtype = node.meta["val"].dtype
    x, stored = node.args[0], arguments(node)[1:3]
    tensors = [constant(module, n) for n in stored if n is not None]
    if dtype == torch.float32 or not dtype.is_floating_point or any(t is None for t in tensors):
        return
    assert isinstance(x, fx.Node)
    graph = module.graph
    kinds = ("weight", "bias")
    reads = []
    for kind, tensor in zip(kinds, tensors, strict=False):
        assert tensor is not None
        reads.append(replace_constant(module, node, kind, tensor.float()))
    source = narrowed.get(x)
    if source is None:
        with graph.inserting_before(node):
            source = _cast(graph, x, torch.float32)
    node.args = (source, *reads, *node.args[1 + len(reads) :])
    node.kwargs = {k: v for k, v in node.kwargs.items() if k not in kinds}
    value: Tensor = node.meta["val"]
    with graph.inserting_after(node):
        back = _cast(graph, node, dtype)
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)
    node.meta["val"] = value.to(torch.float32)
    narrowed[back] = node


def _cast(graph: fx.Graph, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    cast = graph.call_function(aten._to_copy.default, (x,), {"dtype": dtype})
    cast.meta["val"] = x.meta["val"].to(dtype)
    return cast
