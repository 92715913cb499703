"""The report page's plots: cost against quality, stage by stage, by layer, by class."""

from dataclasses import dataclass
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.report import bars
from optimize.report.bars import Bar, Step, Waterfall
from optimize.report.formatting import cell, milliseconds
from optimize.report.report import size
from optimize.report.scatter import Point, Scatter, scatter

MANY = 24  # rows that are shown at once; more are folded


@dataclass(frozen=True)
class Costs:
    """Quality against latency and against size.

    Attributes:
        plots: both.
        key: the kinds of points in them, each with its name for people.
        searched: whether trials of a search are among the points.
    """

    plots: list[Scatter]
    key: list[tuple[str, str]]
    searched: bool


def _entries(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """(name, metrics, kind) of the original, the stages and the final model.

    The last stage is the final model: it is drawn once, under the final model's name.
    """
    entries = [("original", report["original"], "original")]
    entries += [(stage["name"], stage, "stage") for stage in report["stages"][:-1]]
    return [*entries, ("final", report["final"], "final")]


def costs(report: dict[str, Any]) -> Costs:
    """Every stage and search trial by latency and by size."""
    metric = Metric.of(report)
    before, scale = report["original"][metric.name], metric.scale
    limit = metric.after_losing(before, report["gate"]["max_drop"]) * scale
    latency, sizes = [], []
    base = report["original"]["latency_ms"]["batch1_threads1"]["p50"]
    for label, metrics, kind in _entries(report):
        value, text = metrics[metric.name] * scale, metric.text(metrics[metric.name])
        sizes.append(
            Point(label, metrics["bytes"] / 1e6, value, kind, size(metrics["bytes"]), text)
        )
        timed = metrics.get("latency_ms", {}).get("batch1_threads1")
        if timed:
            p50 = timed["p50"]
            latency.append(Point(label, p50, value, kind, milliseconds(p50), text))
    trials = [t for t in report.get("search", {}).get("points", []) if t.get("bytes")]
    for trial in trials:
        worth = metric.after_losing(before, trial["drop"])
        value, text = worth * scale, metric.text(worth)
        kind = "best" if trial.get("front") else "trial"
        label = f"trial {trial['number']}"
        if trial.get("latency_ratio"):
            p50 = trial["latency_ratio"] * base
            latency.append(Point(label, p50, value, kind, milliseconds(p50), text))
        sizes.append(Point(label, trial["bytes"] / 1e6, value, kind, size(trial["bytes"]), text))
    shown = [p.y for p in [*latency, *sizes]]
    # A budget far from every model would squeeze them into a corner.
    near = limit >= min(shown) - 3 * (max(shown) - min(shown) + 0.2)
    plots = [
        scatter(
            points,
            title=f"{metric.title} against {cost}",
            x_label=axis,
            y_label=metric.name,
            y_unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            budget=limit if near else None,
        )
        for points, cost, axis in (
            (latency, "latency", "ms for one input, one thread (log scale)"),
            (sizes, "file size", "file size, MB (log scale)"),
        )
    ]
    key = [("original", "original"), ("stage", "after a stage"), ("final", "final")]
    if not report["stages"][:-1]:
        del key[1]
    if trials:
        key += [("best", "search trial on the front"), ("trial", "other search trial")]
    return Costs(plots, key, bool(trials))


def waterfalls(report: dict[str, Any]) -> list[Waterfall]:
    """What each stage changed in quality, size and, where it was measured, latency."""
    metric = Metric.of(report)
    stages = [(s["name"], s) for s in report["stages"]]
    if not stages:
        return []
    entries = [("original", report["original"]), *stages, ("final", report["final"])]
    drawn = [
        bars.waterfall(
            metric.title,
            [
                Step(n, m[metric.name] * metric.scale, metric.text(m[metric.name]))
                for n, m in entries
            ],
            higher_is_better=metric.higher_is_better,
            change=lambda delta: metric.change(delta / metric.scale, unit=False),
        ),
        bars.waterfall(
            "File size",
            [Step(n, m["bytes"], size(m["bytes"])) for n, m in entries],
            higher_is_better=False,
        ),
    ]
    timed = [
        (n, m["latency_ms"]["batch1_threads1"]["p50"])
        for n, m in entries
        if "batch1_threads1" in m.get("latency_ms", {})
    ]
    if len(timed) > 2:
        drawn.append(
            bars.waterfall(
                "Latency, one input, one thread",
                [Step(n, value, milliseconds(value)) for n, value in timed],
                higher_is_better=False,
            )
        )
    return drawn


@dataclass(frozen=True)
class Sensitivity:
    """What compressing single layers cost in one stage: bars of the worst, a table of all."""

    name: str
    bars: list[Bar]
    head: list[str]
    rows: list[list[str]]


def sensitivity(report: dict[str, Any]) -> list[Sensitivity]:
    """One for each stage that measured layers one by one: rows of a name and numbers."""
    stages, metric = [], Metric.of(report)
    for stage in report["stages"]:
        rows = stage.get("details", {}).get("sensitivity")
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
            continue
        keys = list(rows[0])
        head = [key.replace("_", " ") for key in keys]
        cells = [[cell(row.get(key)) for key in keys] for row in rows]
        stages.append(Sensitivity(stage["name"], _drops(rows, metric), head, cells))
    return stages


def _drops(rows: list[dict[str, Any]], metric: Metric) -> list[Bar]:
    """Bars of the rows that have a number named `drop`, the dozen largest."""
    if not all(isinstance(row.get("drop"), int | float) for row in rows):
        return []
    worst = sorted(rows, key=lambda row: -row["drop"])[:12]
    largest = max(abs(row["drop"]) for row in worst)
    names = [
        str(row.get("layer", row.get("name", "")))
        + (f" at {row['ratio']}" if "ratio" in row else "")
        for row in worst
    ]
    return [
        bars.bar(name, row["drop"], largest, metric.loss(row["drop"]))
        for name, row in zip(names, worst, strict=True)
    ]


def _points(delta: float) -> str:
    """A class's change in points: `1.2 lower`."""
    if not round(delta * 100, 1):
        return "unchanged"
    return f"{abs(delta) * 100:.1f} {'higher' if delta > 0 else 'lower'}"


@dataclass(frozen=True)
class Classes:
    """Accuracy by class: the largest changes, the changes after them, and classes without one."""

    changed: list[Bar]
    more: list[Bar]
    same: list[Bar]


def per_class(report: dict[str, Any]) -> Classes | None:
    """Accuracy within each class before and after; None where it was not measured."""
    labels = report["data"]["labels"]
    before, after = (report[k].get("per_class") for k in ("original", "final"))
    if not before or not after or len(before) != len(after):
        return None
    rows = []
    for number, (then, now) in enumerate(zip(before, after, strict=True)):
        if then is not None and now is not None:
            label = labels[number] if number < len(labels) else str(number)
            rows.append((now - then, str(label), then, now))
    if not rows:
        return None
    rows.sort(key=lambda row: row[0])
    largest = max(abs(row[0]) for row in rows)
    drawn = [
        bars.diverging(
            label, delta, largest, _points(delta), f"{then * 100:.1f} → {now * 100:.1f}%"
        )
        for delta, label, then, now in rows
    ]
    changed = [bar for bar in drawn if bar.tone]
    return Classes(changed[:MANY], changed[MANY:], [bar for bar in drawn if not bar.tone])
