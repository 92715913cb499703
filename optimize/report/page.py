"""`report.html`: the report as one self-contained page, for people.

Everything on it comes from `report.json` and `examples.json`; nothing is fetched and nothing runs:
one file of HTML, CSS and SVG, in light and dark, for screens from a phone's width up and for two
pages of paper. This module gathers the values; `templates/page.html` says where they stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import Metric
from optimize.report import calibration, engines, example_file, figures, served
from optimize.report.formatting import Text, cell, count, milliseconds, percent, times
from optimize.report.report import size
from optimize.utils import files

_TEMPLATES = Environment(
    loader=PackageLoader("optimize.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(folder: Path, report: dict[str, Any]) -> Path:
    """Write `report.html` beside `report.json`, with the folder's examples; returns its path.

    Raises:
        EvidenceError: `examples.json` was edited.
        StorageError: the disk is full or the folder cannot be written.
    """
    path, text = folder / "report.html", render(report, example_file.read(folder, report))
    # Texts and labels from JSON can hold halves of characters, which UTF-8 cannot.
    files.write(path, lambda aside: aside.write_text(text, encoding="utf-8", errors="replace"))
    return path


def render(report: dict[str, Any], examples: Sequence[Example] = ()) -> str:
    """The page of a report that fits `report.schema.json`, with its examples."""
    metric = Metric.of(report)
    return _TEMPLATES.get_template("page.html").render(
        report=report,
        metric=metric,
        created=report["created"].replace("T", " ")[:16],
        gate=_gate(report, metric),
        tiles=_tiles(report, metric),
        before_after=_before_after(report, metric),
        costs=figures.costs(report),
        waterfalls=figures.waterfalls(report),
        sensitivity=figures.sensitivity(report),
        classes=figures.per_class(report),
        diagrams=calibration.diagrams(report),
        measures=calibration,
        examples=examples,
        controls=_controls(report, metric),
        exports=_exports(report, metric),
        engine=engines.sentence(report),
        race=engines.rows(report),
        search=report.get("search"),
        trials=_trials(report),
        many=figures.MANY,
        evidence=_evidence(report),
        command=report.get("command"),
    )


def _gate(report: dict[str, Any], metric: Metric) -> dict[str, str]:
    """The budget, and what was used of it."""
    gate = report["gate"]
    worse = "fall" if metric.higher_is_better else "rise"
    budget = f"{metric.name} may {worse} by at most {metric.amount(gate['max_drop'])}"
    if gate["min_agreement"]:
        budget += f", agreement at least {percent(gate['min_agreement'])}"
    if gate.get("floor") is not None:
        bound = "least" if metric.higher_is_better else "most"
        budget += f", {metric.name} at {bound} {metric.text(gate['floor'])}"
    return {
        "budget": budget,
        "change": f"{metric.name} {metric.loss(gate['drop'])}",
        "samples": f"{report['final']['samples']:,}",
    }


def _change(report: dict[str, Any], metric: Metric) -> Text:
    """The metric's change: 0.66 points lower."""
    before, after = (report[entry][metric.name] for entry in ("original", "final"))
    lost = round(metric.lost(before, after) * metric.scale, metric.digits)
    tone = "" if lost == 0 else "bad" if lost > 0 else "good"
    return Text(metric.change(after - before), tone)


@dataclass(frozen=True)
class Tile:
    """A figure of the final model, and how it compares with the original's."""

    label: str
    value: str
    note: str
    change: Text | None = None


def _tiles(report: dict[str, Any], metric: Metric) -> list[Tile]:
    original, final = report["original"], report["final"]
    before, after = original[metric.name], final[metric.name]
    then = original["latency_ms"]["batch1_threads1"]["p50"]
    now = final["latency_ms"]["batch1_threads1"]["p50"]
    return [
        Tile(
            metric.title,
            metric.text(after),
            f"from {metric.text(before)}",
            _change(report, metric),
        ),
        Tile(
            "File",
            size(final["bytes"]),
            f"from {size(original['bytes'])}",
            times(original["bytes"], final["bytes"], "smaller", "larger"),
        ),
        Tile(
            "Latency, one request",
            milliseconds(now),
            f"from {milliseconds(then)}",
            times(then, now, "faster", "slower"),
        ),
        Tile("Agreement", percent(final["agreement"]), "same answer as the original"),
    ]


def _configuration(key: str) -> tuple[str, str]:
    """`batch8_threads2` as ("8", "2")."""
    batch, _, threads = key.removeprefix("batch").partition("_threads")
    return batch, threads


def _timing(latency: dict[str, float]) -> Text:
    return Text(milliseconds(latency["p50"]), note=f"p95 {milliseconds(latency['p95'])[:-3]}")


def _before_after(report: dict[str, Any], metric: Metric) -> list[list[str | Text]]:
    original, final = report["original"], report["final"]

    def score(row: dict[str, Any]) -> Text:
        low, high = (f"{end * metric.scale:.{metric.digits}f}" for end in row["ci95"])
        return Text(metric.text(row[metric.name]), note=f"{low}–{high}")  # noqa: RUF001

    rows: list[list[str | Text]] = [
        [f"{metric.title}, 95% interval", score(original), score(final), _change(report, metric)],
    ]
    for key, label in (("parameters", "Parameters"), ("macs", "Multiply-adds")):
        change = times(original[key], final[key], "fewer", "more") if original[key] else ""
        rows.append([label, count(original[key]), count(final[key]), change])
    rows.append(
        [
            "File",
            size(original["bytes"]),
            size(final["bytes"]),
            times(original["bytes"], final["bytes"], "smaller", "larger"),
        ]
    )
    for key, now in final["latency_ms"].items():
        if key not in original["latency_ms"]:
            continue
        batch, threads = _configuration(key)
        then = original["latency_ms"][key]
        label = f"Latency, batch {batch}, {threads} thread{'s' * (threads != '1')}"
        change = times(then["p50"], now["p50"], "faster", "slower")
        rows.append([label, _timing(then), _timing(now), change])
    return rows


_CONTROLS = {
    "undistilled": "the student trained without a teacher",
    "scratch": "the final shape trained from scratch",
}


def _controls(report: dict[str, Any], metric: Metric) -> list[list[str]]:
    if not report["controls"]:
        return []
    rows = [["final model", metric.text(report["final"][metric.name])]]
    for control in report["controls"]:
        name = _CONTROLS.get(control["name"], control["name"])
        rows.append([name, metric.text(control[metric.name])])
    return rows


def _exports(report: dict[str, Any], metric: Metric) -> list[list[str]]:
    rows = []
    for name, export in report["exports"].items():
        parity, score, ratio = (export.get(k) for k in ("parity", metric.name, "latency_ratio"))
        rows.append(
            [
                name,
                str(export.get("file", "")),
                size(export["bytes"]) if "bytes" in export else "",
                f"{parity:.2g}" if isinstance(parity, float) else cell(parity),
                metric.text(score) if isinstance(score, float) else cell(score),
                f"{ratio:.2f}x" if isinstance(ratio, float) else cell(ratio),
            ]
        )
    return rows


def _trials(report: dict[str, Any]) -> list[list[str]]:
    """The trials of a search, those on the front first."""
    search = report.get("search")
    if not search:
        return []
    rows, metric = [], Metric.of(report)
    for trial in sorted(search["points"], key=lambda t: (not t.get("front"), t["number"])):
        measured = bool(trial.get("bytes"))
        marks = ["front"] * bool(trial.get("front"))
        marks += ["chosen"] * (trial["number"] == search.get("chosen"))
        rows.append(
            [
                f"{trial['number']}",
                metric.loss(trial["drop"], unit=False) if measured else "",
                size(trial["bytes"]) if measured else "",
                f"{1 / trial['latency_ratio']:.1f}x" if trial.get("latency_ratio") else "",
                ", ".join(marks) or trial["state"],
                trial["stages"],
            ]
        )
    return rows


def _evidence(report: dict[str, Any]) -> list[tuple[str, str]]:
    data, machine = report["data"], report["machine"]
    sizes = ", ".join(f"{data[k]:,} {k}" for k in ("train", "validation", "test") if data[k])
    features = ", ".join(machine["features"])
    rows = [
        ("Data", f"{data['name']} ({data['source']}); {sizes}"),
        ("Fingerprint", data["fingerprint"]),
        ("Licences", "; ".join(f"{k}: {v}" for k, v in report["licences"].items())),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores; {features}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in report["versions"].items())),
        ("Seed", str(report["seed"])),
        ("Saved file", f"relative error {report['parity']:.2g} after reloading in a new process"),
    ]
    rows += served.row(report)
    rows += [("Note", note) for note in data["notes"]]
    for stage in report["stages"]:
        kernels = stage.get("details", {}).get("kernels")
        if kernels:
            rows.append((f"Kernels of {stage['name']}", engines.kernels(kernels)))
        left = stage.get("details", {}).get("left_in_float")
        if left:
            layers = left
            if isinstance(left, dict):
                layers = ", ".join(f"{layer} ({reason})" for layer, reason in left.items())
            rows.append((f"Left in float by {stage['name']}", str(layers)))
    return rows
