"""Progress bars in one style: a single line, removed when done, shown by the first process only."""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from tqdm import tqdm


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    title: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
) -> Any:
    """A `tqdm` bar.

    Args:
        iterable: iterated over; without one the caller calls `update`.
        title: shown before the bar.
        unit: name of one item.
        total: number of items, if `iterable` has no length.
        initial: number of items already done.
    """
    first = not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
    return tqdm(
        iterable,
        desc=title,
        unit=unit,
        total=total,
        initial=initial,
        leave=False,
        ncols=78,
        mininterval=0.5,
        disable=not first,
    )
