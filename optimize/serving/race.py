"""Candidates against TorchScript: right, then timed by turns, then within the budget.

Every file runs in a process of its own, loaded as a worker loads it. The slow ones are out before
their answers are judged on the held-out data, which takes longest.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from optimize.errors import ExportRefused
from optimize.evaluation import timer
from optimize.export import check
from optimize.export.formats.interface import Limits
from optimize.export.runner import Runner
from optimize.export.subject import Exportable, Inputs

ROUNDS = 4
TORCHSCRIPT = "torchscript"


@dataclass(frozen=True)
class Gate:
    """What a candidate may lose.

    Attributes:
        drop: what `model.pt` lost against the original.
        max_drop: what may be lost in all.
        min_agreement: with the float model.
    """

    drop: float
    max_drop: float
    min_agreement: float


@dataclass
class Entry:
    """A candidate's part of the report.

    Attributes:
        outcome: why it serves or does not.
        milliseconds: p50 of a call, by `batchN`; empty if it was not timed.
        measured: its metric, agreement and drop against `model.pt`, once they were asked for.
    """

    outcome: str
    milliseconds: dict[str, float] = field(default_factory=dict)
    parity: float | None = None
    bytes: int | None = None
    measured: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry without what was not measured."""
        found: dict[str, Any] = {"outcome": self.outcome}
        if self.milliseconds:
            found["milliseconds"] = self.milliseconds
        more = {"parity": self.parity, "bytes": self.bytes}
        return {**found, **{k: v for k, v in more.items() if v is not None}, **self.measured}


def order(milliseconds: Mapping[str, Mapping[str, float]], batch: str, gain: float) -> list[str]:
    """The candidates that are `gain` times as fast as TorchScript at `batch`, fastest first.

    Args:
        milliseconds: of each file, by batch; TORCHSCRIPT among them.
        batch: the label of the serving batch.
    """
    own = milliseconds[TORCHSCRIPT][batch]
    faster = [
        name
        for name, found in milliseconds.items()
        if name != TORCHSCRIPT and found[batch] * gain <= own
    ]
    return sorted(faster, key=lambda name: milliseconds[name][batch])


def run(
    exportable: Exportable,
    served: Path,
    engine: str | None,
    files: Mapping[str, Path],
    *,
    limits: Callable[[str], Limits],
    calls: Mapping[str, Inputs],
    gate: Gate,
    gain: float,
    threads: int,
    deadline: float,
) -> tuple[str, dict[str, Entry]]:
    """Race files against the served one.

    Args:
        exportable: of one subject, with `model.pt`'s inputs and outputs.
        served: `model.pt`, and `engine` its quantized engine.
        files: of the candidates, by name.
        limits: what a candidate's answers may differ by from the float module's.
        calls: real inputs to time, by `batchN`; the last label is the serving batch.
        gate: what a candidate may lose.
        gain: how many times as fast as `served` one must be.
        threads: intra-op threads of a worker.
        deadline: by `time.monotonic`; candidates not judged by then are out.

    Returns:
        The name of what serves, TORCHSCRIPT if none is better, and each file's entry.

    Raises:
        ExportRefused: the served file itself does not run.
    """
    serving_batch = list(calls)[-1]
    entries: dict[str, Entry] = {}
    with ExitStack() as stack:
        runners = {TORCHSCRIPT: stack.enter_context(Runner("served", served, engine, threads))}
        entries[TORCHSCRIPT] = Entry("", bytes=served.stat().st_size)
        for name, path in files.items():
            try:
                runner = stack.enter_context(Runner("served", path, threads=threads))
                parity = check.parity(next(iter(exportable)), runner, limits(name))
            except ExportRefused as error:
                entries[name] = Entry(f"refused: {error}")
                continue
            runners[name] = runner
            size = sum(file.stat().st_size for file in path.parent.iterdir())
            entries[name] = Entry("", parity=max(parity.values()), bytes=size)
        for name, found in _timed(runners, calls).items():
            entries[name].milliseconds = found
        times = {name: entries[name].milliseconds for name in runners}
        chosen = TORCHSCRIPT
        ahead = order(times, serving_batch, gain)
        for name in ahead:
            try:
                _judge(exportable, runners, name, limits(name), gate, deadline, entries[name])
            except ExportRefused as error:
                entries[name].outcome = f"refused: {error}"
                continue
            chosen = name
            break
        _conclude(entries, times, chosen, serving_batch, gain)
    return chosen, entries


def _timed(
    runners: Mapping[str, Runner], calls: Mapping[str, Inputs]
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {name: {} for name in runners}
    for label, inputs in calls.items():
        turns = {name: runner.time(*inputs) for name, runner in runners.items()}
        for name, seconds in timer.by_turns(turns, ROUNDS).items():
            found[name][label] = timer.percentiles(seconds)["p50"]
    return found


def _judge(
    exportable: Exportable,
    runners: Mapping[str, Runner],
    name: str,
    limits: Limits,
    gate: Gate,
    deadline: float,
    entry: Entry,
) -> None:
    """Measure a candidate on the held-out data. Raises ExportRefused where it loses too much."""
    metric, subject = exportable.metric, next(iter(exportable))

    def evaluated(runner: Runner) -> dict[str, Any]:
        def run(*inputs: Tensor) -> list[Tensor]:
            if time.monotonic() > deadline:
                raise ExportRefused("no time was left to judge it")
            return runner(*inputs)

        return exportable.evaluate({subject.name: run})

    measured = evaluated(runners[name])
    own = evaluated(runners[TORCHSCRIPT])
    lost = metric.lost(own[metric.name], measured[metric.name])
    kept = (metric.name, "samples", "agreement", "agreement_samples")
    entry.measured = {**{key: measured[key] for key in kept}, "served_drop": lost}
    if gate.drop + lost > gate.max_drop + metric.tolerance(measured["samples"]):
        raise ExportRefused(
            f"{metric.name} drops by {gate.drop + lost:.4f} in it, {gate.max_drop} is allowed"
        )
    least = max(gate.min_agreement, limits.agreement)
    if measured["agreement"] < least:
        raise ExportRefused(f"it agrees on {measured['agreement']:.3f}, {least} is asked for")


def _conclude(
    entries: dict[str, Entry],
    times: Mapping[str, Mapping[str, float]],
    chosen: str,
    batch: str,
    gain: float,
) -> None:
    """Write every outcome that is not written yet."""
    for name in times:
        ratio = times[TORCHSCRIPT][batch] / max(times[name][batch], math.ulp(0))
        if name == chosen:
            entries[name].outcome = "serves"
        elif name == TORCHSCRIPT:
            entries[name].outcome = "serves where the other does not"
        elif not entries[name].outcome and ratio >= gain:
            entries[name].outcome = f"{ratio:.2f}x TorchScript, {chosen} is faster"
        elif not entries[name].outcome:
            entries[name].outcome = f"{ratio:.2f}x TorchScript, {gain:g} is asked for"
