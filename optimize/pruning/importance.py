"""Which channels matter least."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from optimize.pruning.graph import CONVOLUTIONS, Coupled, is_depthwise, torch_pruning
from optimize.pruning.options import PruneOptions
from optimize.pruning.removal import Plan


def least_important(
    groups: list[Coupled], before: dict[str, int], options: PruneOptions, ratio: float
) -> Plan:
    """The channels whose removal brings the groups to `1 - ratio` of their first widths.

    Widths are rounded down to multiples of `options.round_to`, but no layer loses all its
    channels. Where a layer works in blocks of channels (grouped convolutions, group
    normalisation, parts that are added up), every block loses the same ones.

    Args:
        groups: from `coupled`.
        before: the first widths of all layers, by name.
        options: see `PruneOptions`.
        ratio: share of channels to remove, from 0 to 1.

    Returns:
        The channels to remove by the layer's name, without layers that lose none.
    """
    estimated = [(group, _importance(group, options)) for group in groups]
    scored = [(group, scores) for group, scores in estimated if scores is not None]
    most: dict[str, int] = {}
    if options.scope == "layer":
        most = {g.name: g.width - _share(before[g.name], ratio) for g, _ in scored}
    elif scored:
        every = torch.cat([scores.flatten() for _, scores in scored]).sort().values
        first = sum(before[group.name] for group, _ in scored)
        count = len(every) - _share(first, ratio)
        threshold = every[count - 1] if count > 0 else -torch.inf
        most = {group.name: int((scores <= threshold).sum()) for group, scores in scored}
    plan = {}
    for group, scores in scored:
        blocks, size = scores.shape
        remaining = max(_rounded(group.width - most[group.name], options.round_to, blocks), blocks)
        removed = size - remaining // blocks
        if removed > 0:
            # One importance for all blocks, so that the same places go in each.
            places = scores.mean(0).argsort(stable=True)[:removed].sort().values
            index = torch.arange(blocks)[:, None] * size + places
            plan[group.name] = index.flatten().tolist()
    return plan


def channel_importance(group: Coupled, kind: str) -> Tensor | None:
    """Float `[width]`; None where torch-pruning has none for these layers."""
    tp = torch_pruning()
    estimate: Any = {
        "magnitude": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn_scale": tp.importance.BNScaleImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }[kind]()
    try:
        with torch.no_grad():
            scores = estimate(group.group)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    if not isinstance(scores, Tensor) or len(scores) != group.width:
        return None
    return scores.detach().nan_to_num()


def _importance(group: Coupled, options: PruneOptions) -> Tensor | None:
    """Float `[blocks, channels of a block]`."""
    scores = channel_importance(group, options.importance)
    blocks = math.lcm(group.tied, *(_blocks(module) for module, _, _, _ in group.members))
    if scores is None or group.width % blocks:
        return None
    return scores.view(blocks, -1)


def _blocks(module: nn.Module) -> int:
    """How many blocks of channels a layer treats apart; 1 for a depthwise convolution."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    return module.groups if isinstance(module, CONVOLUTIONS) and not is_depthwise(module) else 1


def _share(width: int, ratio: float) -> int:
    """Channels of `width` that stay."""
    return int(width * (1 - ratio) + 1e-6)


def _rounded(width: int, round_to: int, blocks: int) -> int:
    """The next multiple of `round_to` down, or the first one; and of the blocks, up."""
    rounded = max(width - width % round_to, round_to)
    return -(-rounded // blocks) * blocks
