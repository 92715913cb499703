"""Contestants in processes of their own, taking turns in short bursts.

`python -m benchmarks.compress_race MODEL CONTESTANT BATCH THREADS WORK` is one contestant's
process; the functions here start such processes and race them.
"""

import functools
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch

from benchmarks import compress_contestants, compress_zoo
from benchmarks.contestant import MALLOC, ROOT, Contestant, ContestantError, answer_questions
from optimize.evaluation import timer

BURST = 0.3  # seconds
PICK_ROUNDS = 3
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_WALK = "walk"


def serve(model: str, contestant: str, batch: int, threads: int, work: Path) -> None:
    """Answer each number of seconds with the milliseconds per call of so long a burst."""

    def load() -> Callable[[float], list[float]]:
        entry = compress_zoo.ZOO[model]
        inputs = entry.timed(batch)
        call = compress_contestants.load(model, contestant, threads, work, inputs[0], entry.varied)

        def run() -> None:
            for x in inputs:
                call(x)

        @torch.inference_mode()
        def milliseconds(seconds: float) -> list[float]:
            return [1e3 * t / len(inputs) for t in timer.burst([run], seconds)]

        with torch.inference_mode():
            for _ in range(4):
                run()
        return milliseconds

    answer_questions(load)


def walk(model: str, threads: int, work: Path) -> None:
    """Answer each batch size with our milliseconds per input, all on one loaded file."""

    def load() -> Callable[[int], float]:
        entry = compress_zoo.ZOO[model]
        inputs = entry.inputs(1, 1) if entry.varied else entry.inputs(max(GRID), 1)
        inputs = inputs.expand(max(GRID), *inputs.shape[1:]).contiguous()
        call = compress_contestants.load(model, "ours", threads, work, inputs, False)

        @torch.inference_mode()
        def per_input(batch: int) -> float:
            x = inputs[:batch]
            for _ in range(3):
                call(x)
            times = timer.burst([functools.partial(call, x)], BURST)
            return 1e3 * _faster_half(times) / batch

        return per_input

    answer_questions(load)


def _faster_half(times: list[float]) -> float:
    """The median of the faster half."""
    return statistics.median(sorted(times)[: (len(times) + 1) // 2])


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs one of this folder's modules."""
    return [sys.executable, "-m", f"benchmarks.{module}", *arguments]


def environment(work: Path, threads: int) -> dict[str, str]:
    """The same malloc and threads for everybody; torch.compile's cache is in the work folder."""
    return {
        **os.environ,
        **MALLOC,
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONWARNINGS": "ignore",
    }


def run(module: str, *arguments: str, work: Path, log: IO[str]) -> bool:
    """Run one of this folder's modules on one thread; whether it succeeded."""
    finished = subprocess.run(
        command(module, *arguments),
        env=environment(work, threads=1),
        cwd=ROOT,
        stdout=log,
        stderr=log,
        check=False,
    )
    return finished.returncode == 0


def start(
    model: str, name: str, batch: int, threads: int, work: Path, cores: str
) -> Contestant | None:
    """A contestant that is loaded and warm; None when it cannot be."""
    arguments = [model, name, str(batch), str(threads), str(work)]
    with (work / f"{model}.{name}.log").open("a") as log:
        try:
            return Contestant(
                command("compress_race", *arguments), environment(work, threads), log, cores
            )
        except ContestantError:
            return None


def race(
    model: str,
    names: Mapping[str, str],
    batch: int,
    threads: int,
    rounds: int,
    work: Path,
    cores: str,
) -> dict[str, float]:
    """Milliseconds per call, by the key of each contestant in `names`."""  # fmt: skip
    started = {key: start(model, name, batch, threads, work, cores) for key, name in names.items()}
    contestants = {key: one for key, one in started.items() if one is not None}
    times: dict[str, list[float]] = {key: [] for key in contestants}
    for _ in range(rounds):
        for key, contestant in contestants.items():
            times[key] += contestant.ask(BURST)
    for contestant in contestants.values():
        contestant.close()
    return {key: _faster_half(milliseconds) for key, milliseconds in times.items()}


def pick(
    model: str, names: Sequence[str], batch: int, threads: int, work: Path, cores: str
) -> dict[str, float]:
    """Milliseconds of ours and of the candidates as a worker loads them: what `engines: auto`
    decides by, on the batch that is measured as the serving batch."""
    raced = {name: f"{compress_contestants.SERVED}{name}" for name in ("ours", *names)}
    return race(model, raced, batch, threads, PICK_ROUNDS, work, cores)


def compile_ahead(model: str, batch: int, threads: int, work: Path) -> bool:
    """Fill torch.compile's cache for one batch size and thread count; whether it could."""
    contestant = start(model, "compile", batch, threads, work, "")
    if contestant is not None:
        contestant.close()
    return contestant is not None


def grid(model: str, threads: int, work: Path, cores: str) -> dict[str, float]:
    """Our milliseconds per input, by batch size, in a fresh process; empty when it fails."""
    contestant = start(model, _WALK, 0, threads, work, cores)
    if contestant is None:
        return {}
    try:
        return {str(batch): contestant.ask(batch) for batch in GRID}
    except ContestantError:
        return {}
    finally:
        contestant.close()


def main() -> None:
    """One contestant's process."""
    model, name, batch, threads, work = sys.argv[1:]
    if name == _WALK:
        walk(model, int(threads), Path(work))
    else:
        serve(model, name, int(batch), int(threads), Path(work))


if __name__ == "__main__":
    main()
