"""The ceiling: the handler called in two processes, without any server between.

FOLDER=... python -m benchmarks.serve.ceiling FILE...       one of the two processes
"""

import os
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.contestant import Contestant, answer_questions
from benchmarks.serve.kinds import Kind

BATCHES = (1, 4, 8)
PROCESSES = 2


class Ceiling:
    """Two processes with the handler."""

    def __init__(self, kind: Kind, unpacked: Path, files: Sequence[Path]) -> None:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "FOLDER": str(unpacked),
            "CONTENT_TYPE": kind.content_type,
        }
        command = [sys.executable, "-m", "benchmarks.serve.ceiling", *map(str, files)]
        self._pool = ThreadPoolExecutor(PROCESSES)
        self._processes = list(
            self._pool.map(lambda _: Contestant(command, environment), range(PROCESSES))
        )

    def rps(self, batch: int, seconds: float) -> float:
        """Inputs a second that both answer together."""
        question = {"batch": batch, "seconds": seconds}
        rates = list(self._pool.map(lambda process: process.ask(question), self._processes))
        return round(sum(rates), 1)

    def close(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.close()
        self._pool.shutdown()


def _answerer() -> Any:
    from benchmarks.serve.application import Application

    application = Application(max(BATCHES))
    bodies = [Path(name).read_bytes() for name in sys.argv[1:]]

    def answer(question: dict[str, Any]) -> float:
        batch, end = question["batch"], time.perf_counter() + question["seconds"]
        count, started = 0, time.perf_counter()
        while time.perf_counter() < end:
            application.answers([bodies[(count + i) % len(bodies)] for i in range(batch)])
            count += batch
        return count / (time.perf_counter() - started)

    return answer


def median(rates: Sequence[float]) -> float:
    """Of several rounds."""
    return round(statistics.median(rates), 1)


if __name__ == "__main__":
    answer_questions(_answerer)
