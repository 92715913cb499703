"""Exact rewrites of a captured graph: less to compute, fewer and larger operators."""

from collections.abc import Callable, Collection

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

# Folding must not grow the file by much.
_LARGEST_FOLDED = 1 << 20


def fold_constants(module: fx.GraphModule) -> None:
    """Compute what depends on no input; let the batch size in only where it is needed.

    `expand` of a constant over the batch is kept as it is, and taken through lookups and
    comparisons by broadcasting, so that embeddings of fixed positions become constants.
    """
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        _narrow_lookup(module, node)
        if not isinstance(node.target, torch._ops.OpOverload) or "rand" in str(node.target):
            continue
        values = {n: constant(module, n) for n in node.all_input_nodes}
        if any(v is None for v in values.values()) or not _small(node.meta.get("val")):
            continue
        read: Callable[[fx.Node], Tensor | None] = values.__getitem__
        with torch.no_grad():
            value = node.target(*fx.map_arg(node.args, read), **fx.map_arg(node.kwargs, read))
        parts = {node: value}
        if not isinstance(value, Tensor):  # several results, each read by its place
            parts = {user: value[user.args[1]] for user in node.users}
        for part, tensor in parts.items():
            folded = replace_constant(module, part, "folded", tensor.clone())
            part.replace_all_uses_with(folded)
            module.graph.erase_node(part)
        if node not in parts:
            module.graph.erase_node(node)
    _join_additions(module)


def _small(value: object) -> bool:
    """Whether a result, or every one of several, is a tensor of known size that may be stored."""
    if isinstance(value, (tuple, list)):
        return all(_small(part) for part in value)
    return (
        isinstance(value, Tensor)
        and all(isinstance(size, int) for size in value.shape)
        and value.numel() <= _LARGEST_FOLDED
    )


def _narrow_lookup(module: fx.GraphModule, node: fx.Node) -> None:
    """`embedding(w, expand(c))` over the batch becomes `embedding(w, c)`, which broadcasts."""
    if node.target is not aten.embedding.default:
        return
    index = node.args[1]
    if not isinstance(index, fx.Node) or index.target is not aten.expand.default:
        return
    source = constant(module, index.args[0])
    broadcast = all(user.target is aten.add.Tensor for user in node.users)
    if source is not None and source.dim() == 2 and len(source) == 1 and broadcast:
        node.update_arg(1, index.args[0])
        with torch.no_grad():
            weight = constant(module, node.args[0])
            if weight is not None:
                node.meta["val"] = torch.nn.functional.embedding(source, weight)


def _join_additions(module: fx.GraphModule) -> None:
    """`(x + c1) + c2` becomes `x + (c1 + c2)`."""
    for node in list(module.graph.nodes):
        if node.target is not aten.add.Tensor or not isinstance(node.args[0], fx.Node):
            continue
        first = node.args[0]
        outer = constant(module, node.args[1])
        if first.target is not aten.add.Tensor or len(first.users) != 1 or outer is None:
            continue
        inner = constant(module, first.args[1])
        if inner is None or arguments(node)[2] != 1 or arguments(first)[2] != 1:
            continue
        total = replace_constant(module, node, "total", inner + outer)
        node.args = (first.args[0], total)
        module.graph.erase_node(first)


def drop_true_masks(module: fx.GraphModule) -> None:
    """Attention masks that allow everything, as transformers writes without padding, go."""
    for node in module.graph.nodes:
        if node.target is not aten.scaled_dot_product_attention.default:
            continue
        mask = arguments(node)[3]
        while isinstance(mask, fx.Node) and mask.target is aten.expand.default:
            mask = mask.args[0]
        value = constant(module, mask)
        if value is not None and value.dtype is torch.bool and bool(value.all()):
            node.args = (*node.args[:3], None, *node.args[4:])
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "attn_mask"}


def merge_projections(module: fx.GraphModule, apart: Collection[str] = ()) -> None:
    """Linear layers that read the same tensor (query, key, value) become one, then slices; the
    layers named in `apart` do not join."""
    for source in list(module.graph.nodes):
        readers = [u for u in source.users if _projection(module, u, source)]
        readers = [u for u in readers if not is_named(layer_name(u), apart)]
        if len(readers) < 2:
            continue
        weights, biases = [], []
        for reader in readers:
            stored, bias = constant(module, reader.args[1]), constant(module, arguments(reader)[2])
            assert stored is not None  # _projection saw to it
            weights.append(stored)
            biases.append(torch.zeros(len(stored)) if bias is None else bias)
        first, widths = readers[0], [len(b) for b in biases]
        weight = replace_constant(module, first, "weight", torch.cat(weights))
        joined = replace_constant(module, first, "bias", torch.cat(biases))
        value = first.meta["val"]
        with module.graph.inserting_before(first):
            merged = module.graph.call_function(aten.linear.default, (source, weight, joined))
            merged.meta = dict(first.meta)
            merged.meta["val"] = value.new_empty((*value.shape[:-1], sum(widths)))
            merged.meta["names"] = [layer_name(n) for n in readers]
            start = 0
            for reader, width in zip(readers, widths, strict=True):
                dim = value.dim() - 1
                span = (merged, dim, start, start + width)
                piece = module.graph.call_function(aten.slice.Tensor, span)
                piece.meta = {"val": reader.meta["val"]}
                start += width
                reader.replace_all_uses_with(piece)
        for reader in readers:
            module.graph.erase_node(reader)


def _projection(module: fx.GraphModule, node: fx.Node, source: fx.Node) -> bool:
    if node.target is not aten.linear.default or node.args[0] is not source:
        return False
    bias = arguments(node)[2]
    stored = bias is None or constant(module, bias) is not None
    views = (aten.reshape.default, aten.transpose.int, aten.permute.default)
    return (
        constant(module, node.args[1]) is not None
        and stored
        and all(user.target in views for user in node.users)
    )
