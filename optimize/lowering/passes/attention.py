"""Self-attention whose queries, keys and values come from one linear layer."""

import math
from dataclasses import dataclass

import torch
from torch import fx

from optimize.lowering.graphs import arguments, aten, constant, replace_constant
from optimize.lowering.passes.unpad import probe_views


@dataclass
class SelfAttention:
    """`source` `[N, L, 3 * heads * width]` to `last` `[N, L, heads * width]`."""

    node: fx.Node
    source: fx.Node
    last: fx.Node
    heads: int
    width: int


def find_self_attention(module: fx.GraphModule, node: fx.Node) -> SelfAttention | None:
    """The self-attention around a call of `scaled_dot_product_attention`, None when it is
    another kind. What the views between do to numbers decides, not how they are written."""
    dropout, causal, _, shared = arguments(node)[4:8]
    if dropout != 0 or causal or shared or node.args[0].meta["val"].dim() != 4:  # type: ignore
        return None
    batch, heads, length, width = node.args[0].meta["val"].shape  # type: ignore[union-attr]
    source = _source(node.args[0])
    if source is None or not isinstance(heads, int) or not isinstance(width, int):
        return None
    stored = [n for n in arguments(source)[1:3] if n is not None]
    if any(constant(module, n) is None for n in stored):
        return None
    value = source.meta["val"]
    if value.dim() != 3 or value.shape[-1] != 3 * heads * width or not _alone(source, node):
        return None
    sizes = {str(batch): 2}
    if not isinstance(length, int):
        sizes[str(length)] = 3
    tokens = length if isinstance(length, int) else 3
    numbers = torch.arange(2 * tokens * 3 * heads * width).reshape(2, tokens, -1)
    expected = numbers.reshape(2, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    try:
        for argument, wanted in zip(node.args[:3], expected, strict=True):
            if not torch.equal(probe_views(argument, source, numbers, sizes), wanted):  # type: ignore
                return None
        mixed = torch.arange(2 * heads * tokens * width).reshape(2, heads, tokens, width)
        last = node
        while (follower := _sole_user(last)) is not None:
            found = probe_views(follower, node, mixed, sizes)
            last = follower
            if found.dim() == 3:
                same = torch.equal(found, mixed.transpose(1, 2).reshape(2, tokens, -1))
                return SelfAttention(node, source, last, heads, width) if same else None
    except (LookupError, RuntimeError, TypeError):
        return None
    return None


def _sole_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _source(node: object) -> fx.Node | None:
    """The linear layer that a view is of."""
    while isinstance(node, fx.Node) and node.target is not aten.linear.default:
        if not node.args or node.op != "call_function":
            return None
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


def _alone(source: fx.Node, attention: fx.Node) -> bool:
    """Whether the views of `source` go nowhere but into `attention`."""
    return all(
        user is attention or (user.target is not aten.linear.default and _alone(user, attention))
        for user in source.users
    ) and bool(source.users)


def fold_scale(module: fx.GraphModule, found: SelfAttention) -> None:
    """Multiply the queries' weights by the factor of the scores, once and for all; log2(e) too,
    as powers of two are cheaper than those of e."""
    node, source = found.node, found.source
    weight, bias = constant(module, source.args[1]), constant(module, arguments(source)[2])
    given = arguments(node)[6]
    scale = (found.width**-0.5 if given is None else float(given)) / math.log(2)
    assert weight is not None  # find_self_attention saw to it
    rows = found.heads * found.width
    weight = torch.cat([weight[:rows] * scale, weight[rows:]])
    source.update_arg(1, replace_constant(module, source, "weight", weight))
    if bias is not None:
        bias = torch.cat([bias[:rows] * scale, bias[rows:]])
        source.args = (*source.args[:2], replace_constant(module, source, "bias", bias))
    node.kwargs = {**node.kwargs, "scale": math.log(2)}
