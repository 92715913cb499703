"""Which runtime serves, and the race that chose it, for the terminal and the page."""

import math
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.report.formatting import milliseconds
from optimize.report.report import size

TORCHSCRIPT = "torchscript"


def sentence(report: dict[str, Any]) -> str:
    """What serves, and why; empty for a report without a race."""
    race = report.get("engines")
    if race is None:
        return ""
    if "reason" in race:
        return f"TorchScript serves: {race['reason']}"
    where = f"batches of {race['batch']} on {race['threads']} thread{'s' * (race['threads'] > 1)}"
    if race["served"] == TORCHSCRIPT:
        return f"TorchScript serves: nothing else was {race['least_gain']:g}x as fast at {where}"
    return f"{race['served']} serves: {race['gain']:.2f}x as fast as TorchScript at {where}"


def rows(report: dict[str, Any]) -> list[list[str]]:
    """The race for the page, the fastest first: name, batch 1, serving batch, size, outcome."""
    race, metric = report.get("engines", {}), Metric.of(report)
    batch = f"batch{race.get('batch')}"

    def row(name: str, entry: dict[str, Any]) -> list[str]:
        times, score = entry.get("milliseconds", {}), entry.get(metric.name)
        return [
            name,
            *(milliseconds(times[key]) if key in times else "" for key in ("batch1", batch)),
            size(entry["bytes"]) if "bytes" in entry else "",
            metric.text(score) if isinstance(score, float) else "",
            entry["outcome"],
        ]

    candidates = race.get("candidates", {})
    ranked = sorted(
        candidates, key=lambda name: candidates[name].get("milliseconds", {}).get(batch, math.inf)
    )
    return [row(name, candidates[name]) for name in ranked]


def kernels(found: dict[str, Any]) -> str:
    """The kernels that a quantize stage chose, and what each of them took."""
    times = "; ".join(
        f"{name}: {', '.join(f'{batch} {milliseconds(ms)}' for batch, ms in by_batch.items())}"
        for name, by_batch in found["milliseconds"].items()
    )
    return f"{found['chosen']}, the fastest of those measured ({times})"
