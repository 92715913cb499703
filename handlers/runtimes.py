"""The fastest of an archive's model files, measured on the machine that serves.

An archive may carry its network a second time for other runtimes: `model.alternatives` of the
card. Before its first worker is ready, a separate process loads them all, compares their answers
with those of the card's own file and times them by turns. A file that fails there, even by a
crash, is skipped and does not harm the worker; the memory of the slower runtimes is freed when
the process ends. The verdict is saved beside the model, so that only one worker measures and all
of them serve the same file.
"""

import contextlib
import dataclasses
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.lib import format as npy

from handlers.backend import Predict, keep_freed_memory, load_model
from handlers.card import Card, read_card
from handlers.errors import ModelError

logger = logging.getLogger(__name__)

VERDICT_FILE = "engine.json"
LIMIT_SECONDS = 30  # where it hangs; else two seconds start the process and load, one measures
ROUNDS, LEAST_ROUNDS = 30, 3
MEASURE_SECONDS = 1.0  # for all files and loads
MARGIN = 0.95  # of the own file's time: a smaller gain may be noise
# Two int8 runtimes round differently, by a tenth at most; kernels that overflow, as 8-bit ones do
# on processors without VNNI when weights fill their range, are off by far more.
MAX_ERROR = 0.5

Load = Sequence[tuple[torch.Tensor, ...]]
"""Calls of the model that together answer a batch."""


@dataclass(frozen=True)
class Verdict:
    """What serves, and why.

    Attributes:
        file: the model file that serves.
        milliseconds: of each file that ran, the median of each load.
        skipped: of each file that did not run, the reason.
    """

    file: str
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def fastest(folder: Path, card: Card, loads: Sequence[Load]) -> Verdict:
    """The file to serve from, of the card's own and its alternatives.

    Args:
        folder: where the card's files lie.
        loads: what to time; each counts the same, however long it takes.

    Returns:
        The verdict of an earlier call for this folder, if there is one; the card's own file
        when nothing could be measured. Raises nothing.
    """
    own = str(card.model["file"])
    try:
        with _one_at_a_time(folder):
            saved = _saved(folder, card)
            if saved is not None:
                return saved
            verdict = _measured_in_process(folder, own, loads)
            _save(folder, verdict)
            return verdict
    except Exception as error:  # the card's own file still serves
        logger.warning("serving from %s, the others were not measured: %s", own, error)
        return Verdict(own, skipped={file: str(error) for file in card.alternatives})


def measure(folder: Path, card: Card, loads: Sequence[Load]) -> Verdict:
    """Load and time every file in this process; see `fastest`.

    Raises:
        ModelError: the card's own file does not load.
    """
    own = str(card.model["file"])
    ready = {own: load_model(folder, card)}
    expected = [[outputs(ready[own](*call)) for call in load] for load in loads]
    skipped: dict[str, str] = {}
    for file in card.alternatives:
        try:
            predict = load_model(folder, with_file(card, file))
            _check(predict, loads, expected)
            ready[file] = predict
        except Exception as error:  # the runtimes raise anything
            skipped[file] = str(error)
    times = {file: [1e3 * t for t in seconds] for file, seconds in _timed(ready, loads).items()}
    costs = {
        file: math.exp(
            statistics.fmean(math.log(t / o) for t, o in zip(ms, times[own], strict=True))
        )
        for file, ms in times.items()
    }
    best = min(costs, key=lambda file: costs[file])
    chosen = best if costs[best] < MARGIN else own
    return Verdict(chosen, {f: [round(t, 4) for t in ms] for f, ms in times.items()}, skipped)


def with_file(card: Card, file: str) -> Card:
    """The card as if `file` were its model."""
    return dataclasses.replace(card, model={**card.model, "file": file})


def recorded(predict: Predict, calls: list[tuple[torch.Tensor, ...]]) -> Predict:
    """`predict`, with its inputs appended to `calls`."""

    def record(*tensors: torch.Tensor) -> Any:
        calls.append(tensors)
        return predict(*tensors)

    return record


def _check(
    predict: Predict, loads: Sequence[Load], expected: list[list[list[torch.Tensor]]]
) -> None:
    for load, answers in zip(loads, expected, strict=True):
        for call, answer in zip(load, answers, strict=True):
            found = outputs(predict(*call))
            if [t.shape for t in found] != [t.shape for t in answer]:
                raise ModelError("its answers have another shape")
            for one, other in zip(found, answer, strict=True):
                error, norm = float((one - other).norm()), float(other.norm())
                if not error <= MAX_ERROR * norm + 1e-4:  # NaN too
                    raise ModelError(f"its answers are off by {error:.2g} where {norm:.2g} is all")


def outputs(value: Any) -> list[torch.Tensor]:
    """A model's answer as a list, of one tensor or several."""
    return [value] if isinstance(value, torch.Tensor) else list(value)


def _timed(ready: dict[str, Predict], loads: Sequence[Load]) -> dict[str, list[float]]:
    """Median seconds of each file for each load, the files by turns."""
    medians: dict[str, list[float]] = {file: [] for file in ready}
    for load in loads:
        times: dict[str, list[float]] = {file: [] for file in ready}
        end = time.perf_counter() + MEASURE_SECONDS / len(loads)
        for number in range(ROUNDS):
            for file, predict in ready.items():
                _run(predict, load)  # brings its weights back into the caches
                start = time.perf_counter()
                _run(predict, load)
                times[file].append(time.perf_counter() - start)
            if number + 1 >= LEAST_ROUNDS and time.perf_counter() > end:
                break
        for file, values in times.items():
            medians[file].append(statistics.median(values))
    return medians


def _run(predict: Predict, load: Load) -> None:
    for call in load:
        predict(*call)


def _measured_in_process(folder: Path, own: str, loads: Sequence[Load]) -> Verdict:
    """`measure` in a process of its own. Raises ModelError."""
    with tempfile.TemporaryDirectory(prefix="marpress-runtimes-") as scratch:
        inputs, result = Path(scratch) / "inputs.npy", Path(scratch) / VERDICT_FILE
        _write(loads, inputs)
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        done = subprocess.run(
            [sys.executable, "-m", "handlers.runtimes", str(folder), str(inputs), str(result)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode != 0 or not result.is_file():
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ModelError(f"the measuring process ended with {done.returncode}: {last[0]}")
        return Verdict(**json.loads(result.read_text()))


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; none where files cannot be locked, or in a read-only folder."""
    with contextlib.ExitStack() as stack:
        try:
            import fcntl

            path = str(folder / f".{VERDICT_FILE}.lock")
            # Never through a link: who can write here must not have this process create files.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except (ImportError, AttributeError, OSError):
            pass
        yield


def _saved(folder: Path, card: Card) -> Verdict | None:
    """The verdict of an earlier worker, unless it names a file that this card does not."""
    try:
        verdict = Verdict(**json.loads((folder / VERDICT_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return verdict if verdict.file in (card.model["file"], *card.alternatives) else None


def _save(folder: Path, verdict: Verdict) -> None:
    aside = folder / f".{VERDICT_FILE}.{os.getpid()}"
    try:
        aside.write_text(json.dumps(dataclasses.asdict(verdict)))
        aside.replace(folder / VERDICT_FILE)
    except OSError as error:
        logger.info("every worker measures for itself, %s cannot be written: %s", folder, error)


def _write(loads: Sequence[Load], path: Path) -> None:
    """Write a line with the number of tensors in each call of each load, then the tensors."""
    counts = json.dumps([[len(call) for call in load] for load in loads])
    with path.open("wb") as sink:
        sink.write(counts.encode() + b"\n")
        for tensor in (tensor for load in loads for call in load for tensor in call):
            npy.write_array(sink, tensor.numpy(), allow_pickle=False)  # type: ignore[no-untyped-call]


def _read(path: Path) -> list[Load]:
    """The loads that `_write` wrote."""
    with path.open("rb") as source:

        def tensor() -> torch.Tensor:
            return torch.from_numpy(npy.read_array(source, allow_pickle=False))  # type: ignore[no-untyped-call]

        counts = json.loads(source.readline())
        return [[tuple(tensor() for _ in range(n)) for n in load] for load in counts]


def _main(folder: str, inputs: str, result: str) -> None:
    """The measuring process."""
    keep_freed_memory()
    verdict = measure(Path(folder), read_card(Path(folder)), _read(Path(inputs)))
    Path(result).write_text(json.dumps(dataclasses.asdict(verdict)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
