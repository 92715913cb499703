"""A request that is alone on the machine may use all of its cores.

Workers compute with a thread each, which is best for many clients; with one client the other
cores stand idle. So a worker holds its model twice, the second time with a thread for every core,
and asks that one while no other worker of this machine has work. It is kept only where it was
measured to be faster.

Workers see each other by locks on one file, a byte for each process while it has a batch. The
kernel takes the locks of a process that ends, however it ends.
"""

import contextlib
import dataclasses
import functools
import logging
import math
import os
import random
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from handlers import cores
from handlers.backend import Predict, load_model
from handlers.card import Card
from handlers.runtimes import outputs

logger = logging.getLogger(__name__)

LARGEST = 100_000_000  # bytes of a file that is held twice
MOST_THREADS = 8
FASTER = 0.8  # of the time with the card's threads, or it is not worth its memory
SAME = 1e-3  # of the answer's norm: more threads add in another order, and no more
PATIENCE = 1.0  # seconds to wait for a quiet machine to measure on
_MEASURE_SECONDS, _ROUNDS = 0.4, 20
_SHARED = Path("/dev/shm")  # the same for all, whatever TMPDIR says, and empty after a restart
_FLOCK = struct.Struct("hhqqi")  # Linux: type, whence, start, length, pid


class Company:
    """Which of this machine's workers have work; `with` marks this one."""

    def __init__(self, path: Path | None = None) -> None:
        """`path`: the file; by default one of this user's, in the machine's shared memory."""
        self._path = path
        self._working = False

    def __enter__(self) -> None:
        self._working = self._mark(True)

    def __exit__(self, *_: object) -> None:
        if self._working:
            self._mark(False)
        self._working = False

    @property
    def alone(self) -> bool:
        """Whether this worker has work, and no other."""
        return self._working and not self.others

    @property
    def others(self) -> bool:
        """Whether another process has work; True where that cannot be seen."""
        import fcntl

        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        try:
            found = fcntl.fcntl(_file(self._path), fcntl.F_GETLK, wanted)
        except (OSError, ValueError):
            return True
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)

    def _mark(self, working: bool) -> bool:
        """Whether it is marked now as told."""
        try:
            import fcntl

            how = fcntl.LOCK_EX | fcntl.LOCK_NB if working else fcntl.LOCK_UN
            fcntl.lockf(_file(self._path), how, 1, os.getpid())
        except (ImportError, OSError, ValueError):
            return False
        return True


@functools.cache
def _file(path: Path | None) -> int:
    """A descriptor of the file that locks are on, -1 for none. It stays open: to close one of
    several would drop all of the process's locks."""
    if not sys.platform.startswith("linux"):
        return -1
    path = path or _SHARED / f"marpress-workers-{os.getuid()}"
    try:
        # Never through a link: who can write there must not have this process create files.
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return -1


def widened(
    folder: Path, card: Card, own: Predict, call: Sequence[torch.Tensor], company: Company
) -> Predict:
    """`own`, or a function that asks the model with more threads where that is faster.

    Args:
        folder: where the card's files lie.
        card: whose `model.file` is what `own` runs.
        call: inputs of one row, to measure with.
        company: tells when this worker is alone.

    Raises:
        Nothing.
    """
    if not sys.platform.startswith("linux"):  # whether another worker computes cannot be told
        return own
    threads = min(cores.usable(), MOST_THREADS)
    if threads <= card.threads or _size(folder / card.model["file"]) > LARGEST:
        return own
    try:
        more = dataclasses.replace(card, model={**card.model, "threads": threads})
        wide = _on_threads(load_model(folder, more), threads, card.threads)
        with _quiet(company):
            times = _timed(own, wide, call)
    except Exception as error:  # the runtimes raise anything
        logger.warning("a lone request keeps to the card's threads: %s", error)
        return own
    finally:
        torch.set_num_threads(card.threads)
    logger.info("milliseconds with %d threads and with %d: %s", card.threads, threads, times)
    if times[1] > FASTER * times[0]:
        return own

    def predict(*tensors: torch.Tensor) -> Any:
        lone = len(tensors[0]) == 1 and company.alone
        return wide(*tensors) if lone else own(*tensors)

    return predict


def _size(path: Path) -> float:
    """Bytes of a model file with its weights beside it."""
    beside = path.with_suffix(".bin")
    try:
        return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
    except OSError:
        return math.inf


def _on_threads(predict: Predict, threads: int, usual: int) -> Predict:
    """`predict` with so many of torch's threads, and the usual ones afterwards."""

    def on_threads(*tensors: torch.Tensor) -> Any:
        torch.set_num_threads(threads)
        try:
            return predict(*tensors)
        finally:
            torch.set_num_threads(usual)

    return on_threads


@contextlib.contextmanager
def _quiet(company: Company) -> Iterator[None]:
    """Alone on the machine, if that comes to pass within PATIENCE."""
    end = time.monotonic() + PATIENCE
    while True:
        with company:
            if company.alone or time.monotonic() > end:
                yield
                return
        time.sleep(random.uniform(0.01, 0.03))  # two that wait for each other part


def _timed(own: Predict, wide: Predict, call: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Milliseconds of both by turns, the least of some rounds. Raises ValueError where the
    answers are not the same."""
    for one, other in zip(outputs(own(*call)), outputs(wide(*call)), strict=True):
        if one.is_floating_point() and not (one - other).norm() <= SAME * one.norm() + 1e-6:
            raise ValueError("with more threads the model answers something else")
    least, end = [math.inf, math.inf], time.perf_counter() + _MEASURE_SECONDS
    for number in range(_ROUNDS):
        for at, predict in enumerate((own, wide)):
            start = time.perf_counter()
            predict(*call)
            least[at] = min(least[at], 1e3 * (time.perf_counter() - start))
        if number >= 2 and time.perf_counter() > end:
            break
    return round(least[0], 3), round(least[1], 3)
