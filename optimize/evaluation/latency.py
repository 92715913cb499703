"""Latency of several models, measured side by side.

Each contestant runs in its own process, so that none inherits another's caches or allocator.
They take turns in short rounds, so that noise on the machine affects all of them equally.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from handlers import cores
from optimize.errors import ModelError
from optimize.evaluation import timer
from optimize.evaluation.session import served
from optimize.utils import child, pickles
from optimize.utils.bars import bar
from optimize.utils.child import Child, ChildError

ROUNDS = 10
_MODULE = "optimize.evaluation.latency"

Call = tuple[Tensor, ...]


@dataclass(frozen=True)
class Contestant:
    """A model file: one that the handlers can serve (`.pt`, `.onnx`, `.xml`, `.pt2`), or a pickled
    eager module."""

    path: Path
    eager: bool = False
    engine: str | None = None


class _Runner:
    """One contestant in its own process."""

    def __init__(
        self, contestant: Contestant, inputs: Path, batches: Sequence[int], threads: int
    ) -> None:
        self.path = contestant.path
        kind, engine = "eager" if contestant.eager else "served", contestant.engine or ""
        files = [str(path.absolute()) for path in (contestant.path, inputs)]
        sizes = ",".join(map(str, batches))
        environment = {**child.MALLOC, "OMP_NUM_THREADS": str(threads)}
        with self._reported():
            self.child = Child(
                _MODULE, kind, *files, sizes, engine, str(threads), environment=environment
            )

    def run(self, label: str, seconds: float) -> list[float]:
        """Repeat the calls of a label for about `seconds`; returns the seconds of each call."""
        with self._reported():
            return self.child.ask((label, seconds))  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except ChildError as error:
            raise ModelError(
                f"{self.path} stopped while its latency was measured: {error}"
            ) from error


def measure(
    contestants: Mapping[str, Contestant],
    inputs: Path,
    *,
    batches: tuple[int, ...] = (1, 8),
    threads: tuple[int, ...] = (1, 2),
    rounds: int = ROUNDS,
) -> dict[str, dict[str, dict[str, float]]]:
    """Latency of every contestant for every kind of call and thread count, interleaved.

    Args:
        contestants: by name.
        inputs: `torch.save` file of real inputs: `{"batch1": [call, ...], ...}`, where a call is
            the tuple of the model's arguments, and calls of one label may differ in shape; or
            one tensor `[N, ...]`, whose first rows make a call.
        batches: numbers of rows to take from one tensor, labelled "batchROWS"; unused for a file
            of calls, which has its own labels.
        threads: intra-op thread counts; counts above the machine's cores are left out.
        rounds: turns of each contestant. In a turn it goes through all calls of a label.

    Returns:
        `{name: {"batch1_threads1": {"p50": ms, "p95": ms}, ...}}`, milliseconds per call.

    Raises:
        ModelError: a contestant does not load or run; the message gives the reason.
    """
    threads = tuple(t for t in threads if t <= cores.usable()) or (1,)
    labels = list(_calls(torch.load(inputs, weights_only=True), batches))
    latencies: dict[str, dict[str, dict[str, float]]] = {name: {} for name in contestants}
    total = len(threads) * len(labels) * rounds
    with bar(total=total, title="latency", unit="round") as shown:
        for count in threads:
            with contextlib.ExitStack() as stack:
                runners = {}
                for name, contestant in contestants.items():
                    runners[name] = _Runner(contestant, inputs, batches, count)
                    stack.callback(runners[name].child.close)
                for label in labels:
                    bursts = {n: functools.partial(r.run, label) for n, r in runners.items()}
                    times = timer.by_turns(bursts, rounds, after_round=shown.update)
                    for name, values in times.items():
                        latencies[name][f"{label}_threads{count}"] = timer.percentiles(values)
    return latencies


def _calls(saved: Any, batches: Sequence[int]) -> dict[str, list[Call]]:
    """The calls of each label; see `measure`."""
    if isinstance(saved, Tensor):
        return {f"batch{size}": [(saved[:size].contiguous(),)] for size in batches}
    calls: dict[str, list[Call]] = saved
    return calls


def _start(
    kind: str, path: str, inputs: str, batches: str, engine: str, threads: str
) -> Callable[[tuple[str, float]], list[float]]:
    """The child's side: load the model, then time the calls of each label asked for."""
    torch.set_num_threads(int(threads))
    if kind == "eager":
        model: Any = pickles.load(Path(path)).eval()
    else:
        model = served(Path(path), engine or None, int(threads))
    saved = torch.load(inputs, weights_only=True)
    labels = _calls(saved, [int(size) for size in batches.split(",")])

    def answer(question: tuple[str, float]) -> list[float]:
        label, seconds = question
        with torch.inference_mode():
            return timer.burst([functools.partial(model, *call) for call in labels[label]], seconds)

    return answer


if __name__ == "__main__":
    child.serve(_start)
