"""The report page's plots: cost against quality, stage by stage, by layer, by class."""

from html import escape
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.report import charts
from optimize.report.charts import Point, Step
from optimize.report.markup import (
    cell,
    milliseconds,
    section,
    table,
)
from optimize.report.report import size

MANY = 24


def _entries(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    """(name, metrics, kind) of the original, the stages and the final model.

    The last stage is the final model: it is drawn once, under the stage's name.
    """
    found = [("original", report["original"], "original")]
    found += [(stage["name"], stage, "stage") for stage in report["stages"][:-1]]
    return [*found, ("final", report["final"], "final")]


def pareto(report: dict[str, Any]) -> str:
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
            told = milliseconds(timed["p50"])
            latency.append(Point(label, timed["p50"], value, kind, told, text))
    trials = [t for t in report.get("search", {}).get("points", []) if t.get("bytes")]
    for trial in trials:
        worth = metric.after_losing(before, trial["drop"])
        value, text = worth * scale, metric.text(worth)
        kind = "best" if trial.get("front") else "trial"
        label = f"trial {trial['number']}"
        if trial.get("latency_ratio"):
            took = trial["latency_ratio"] * base
            latency.append(Point(label, took, value, kind, milliseconds(took), text))
        told = size(trial["bytes"])
        sizes.append(Point(label, trial["bytes"] / 1e6, value, kind, told, text))
    shown = [p.y for p in [*latency, *sizes]]
    # A budget far from every model would squeeze them into a corner.
    near = limit >= min(shown) - 3 * (max(shown) - min(shown) + 0.2)
    plots = "".join(
        f"<figure>{drawn}</figure>"
        for drawn in (
            charts.scatter(
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
        )
    )
    kinds = [("original", "original"), ("stage", "after a stage"), ("final", "final")]
    if not report["stages"][:-1]:
        del kinds[1]
    if trials:
        kinds += [("best", "search trial on the front"), ("trial", "other search trial")]
    key = "".join(f'<span class="{kind}">{text}</span>' for kind, text in kinds)
    way = "Up" if metric.higher_is_better else "Down"
    unit = " in per cent" if metric.unit == "%" else ""
    lead = f"{metric.title}{unit}. {way} and to the left is better; the line joins the models "
    lead += "that no other beats in both ways."
    if trials:
        lead += " Search trials were judged on the validation split."
    return section(
        f"{metric.title} against cost",
        lead,
        f'<div class="pair">{plots}</div><div class="key soft">{key}</div>',
    )


def waterfalls(report: dict[str, Any]) -> str:
    metric = Metric.of(report)
    stages = [(s["name"], s) for s in report["stages"]]
    if not stages:
        return ""
    entries = [("original", report["original"]), *stages, ("final", report["final"])]
    parts = [
        charts.waterfall(
            metric.title,
            [
                Step(n, m[metric.name] * metric.scale, metric.text(m[metric.name]))
                for n, m in entries
            ],
            higher_is_better=metric.higher_is_better,
            from_zero=False,
        ),
        charts.waterfall(
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
        parts.append(
            charts.waterfall(
                "Latency, one input, one thread",
                [Step(n, value, milliseconds(value)) for n, value in timed],
                higher_is_better=False,
            )
        )
    lead = (
        "Each bar is what a stage changed, measured on the same held-out samples; the first and "
        f"last bars are the totals. The {metric.title.lower()} axis does not start at zero."
    )
    return section("Stage by stage", lead, f'<div class="falls">{"".join(parts)}</div>')


def sensitivity(report: dict[str, Any]) -> str:
    """A table per stage that measured layers one by one: rows of a name and numbers."""
    parts = []
    for stage in report["stages"]:
        rows = stage.get("details", {}).get("sensitivity")
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) for r in rows):
            continue
        keys = list(rows[0])
        cells = [[cell(row.get(key)) for key in keys] for row in rows]
        listed = table([escape(key.replace("_", " ")) for key in keys], cells)
        listed = f"<details><summary>all {len(rows)} figures</summary>{listed}</details>"
        parts.append(f"<div><h3>{escape(stage['name'])}</h3>{_drops(rows)}{listed}</div>")
    lead = "What the metric loses when one layer alone is compressed, the costliest first."
    body = f'<div class="falls">{"".join(parts)}</div>'
    return section("Sensitivity by layer", lead, body) if parts else ""


def _drops(rows: list[dict[str, Any]]) -> str:
    """Bars of the rows that have a number named `drop`, the dozen largest."""
    if not all(isinstance(row.get("drop"), int | float) for row in rows):
        return ""
    worst = sorted(rows, key=lambda row: -row["drop"])[:12]
    largest = max(abs(row["drop"]) for row in worst)
    names = [
        str(row.get("layer", row.get("name", "")))
        + (f" at {row['ratio']}" if "ratio" in row else "")
        for row in worst
    ]
    return "".join(
        charts.bar(name, row["drop"], largest, f"{row['drop'] * 100:+.2f} points")
        for name, row in zip(names, worst, strict=True)
    )


def per_class(report: dict[str, Any]) -> str:
    labels = report["data"]["labels"]
    before, after = (report[k].get("per_class") for k in ("original", "final"))
    if not before or not after or len(before) != len(after):
        return ""
    rows = []
    for number, (then, now) in enumerate(zip(before, after, strict=True)):
        if then is not None and now is not None:
            label = labels[number] if number < len(labels) else str(number)
            rows.append((now - then, str(label), then, now))
    if not rows:
        return ""
    rows.sort(key=lambda row: row[0])
    largest = max(abs(row[0]) for row in rows)
    drawn = [
        charts.diverging(
            label, delta, largest, f"{delta * 100:+.1f}", f"{then * 100:.1f} → {now * 100:.1f}%"
        )
        for delta, label, then, now in rows
    ]
    changed = [row for row, (delta, *_) in zip(drawn, rows, strict=True) if delta]
    same = [row for row, (delta, *_) in zip(drawn, rows, strict=True) if not delta]
    body = "".join(changed[:MANY])
    for folded, what in ((changed[MANY:], "more classes"), (same, "classes as before")):
        if folded:
            rest = "".join(folded)
            body += f"<details><summary>{len(folded)} {what}</summary>{rest}</details>"
    lead = "Accuracy within each class before and after, in points, the largest loss first."
    return section("Class by class", lead, body)
