"""The memory of a worker, given back after what took much of it.

Workers keep freed memory for the next call's activations (`backend.keep_freed_memory`), which
would also keep what one big picture took, for good.
"""

import contextlib
import ctypes
import os
from pathlib import Path

MEGABYTE = 1 << 20
# A worker is trimmed once it has grown so far beyond what it had after its warm-up.
_GROWTH, _SLACK = 1.15, 48 * MEGABYTE
# A worker that keeps more than this in spite of trimming is worn out.
_WORN, _WORN_SLACK = 2.0, 512 * MEGABYTE
_STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def trim() -> None:
    """Give freed memory back to the kernel, where malloc is glibc's."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Keeper:
    """Watches what a worker holds between batches.

    Attributes:
        worn: it keeps far more than after its warm-up, and should be replaced between batches.
    """

    def __init__(self) -> None:
        """Start from what is resident now, after the warm-up."""
        self.usual = resident()
        self._limit = self.usual * _GROWTH + _SLACK
        self.worn = False

    def tidy(self) -> None:
        """Between batches: trim if the worker has grown, and judge whether it is worn out."""
        if not self.usual or resident() <= self._limit:
            return
        trim()
        left = resident()
        # What trimming leaves is in use: not worth a trim at every batch.
        self._limit = max(self._limit, left * _GROWTH)
        self.worn = left > self.usual * _WORN + _WORN_SLACK
