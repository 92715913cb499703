"""Progress bars, all alike: one line of a terminal, gone when done, shown by one process."""

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
        iterable: what to go through; without one the caller calls `update`.
        title: what is going on.
        unit: what is counted.
        total: how many there are, where `iterable` does not know.
        initial: how many are done already.
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
