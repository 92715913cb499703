"""Progress in one style, shown by the first process only.

On a terminal a bar in a single line, removed when done. In a log a line of its own, every ten
seconds at most.
"""

import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

import torch.distributed as dist
from tqdm import tqdm

LOG_SECONDS = 10.0
_LINE = "{desc}: {unit} {n_fmt} of {total_fmt} after {elapsed}, {remaining} left"


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
    terminal = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=title,
        unit=unit,
        total=total,
        initial=initial,
        leave=False,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        bar_format=None if terminal else _LINE,
        ncols=78,
        mininterval=0.5 if terminal else LOG_SECONDS,
        disable=not first,
    )


class _Lines:
    """Takes what tqdm writes to redraw one line, and writes lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._due = time.monotonic() + LOG_SECONDS

    def write(self, text: str) -> None:
        text = text.replace("\r", "").strip()
        if text and time.monotonic() >= self._due:  # tqdm redraws for every change of its words
            self._stream.write(f"{text}\n")
            self._due = time.monotonic() + LOG_SECONDS

    def flush(self) -> None:
        self._stream.flush()
