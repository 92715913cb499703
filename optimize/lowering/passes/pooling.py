"""The mean over all positions before a classifier, as a sum whose divisor is in the weights."""

import math

from torch import fx

from optimize.lowering.graphs import aten

_VIEWS = (aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dims, aten.squeeze.dim)


def averaged_map(node: fx.Node) -> tuple[fx.Node, int] | None:
    """The feature map whose mean over all positions `node` is, and the number of positions.

    Args:
        node: float32 `[N, C]`, perhaps a view of `[N, C, 1, 1]`.

    Returns:
        The node of `[N, C, H, W]` and H * W; None where `node` is something else, or is made from
        something that is read elsewhere too.
    """
    shape = node.meta["val"].shape
    while node.target in _VIEWS and len(node.users) == 1:
        node = node.args[0]  # type: ignore[assignment]
    if len(node.users) != 1 or not _averages(node):
        return None
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    size = source.meta["val"].shape
    if len(size) != 4 or len(shape) != 2 or str(shape[1]) != str(size[1]):
        return None
    positions = [length for length in size[2:] if isinstance(length, int)]
    return (source, math.prod(positions)) if len(positions) == 2 else None


def _averages(node: fx.Node) -> bool:
    if node.target is aten.adaptive_avg_pool2d.default:
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    return node.target is aten.mean.dim and sorted(d % 4 for d in node.args[1]) == [2, 3]  # type: ignore
