"""`report.html`: the report as one self-contained page, for people.

Everything on it comes from `report.json`; nothing is fetched and nothing runs: one file of HTML,
CSS and SVG, in light and dark, for screens from a phone's width up.
"""

import string
from html import escape
from pathlib import Path
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.report import figures
from optimize.report.markup import (
    cell,
    count,
    milliseconds,
    percent,
    section,
    table,
    times,
)
from optimize.report.report import size
from optimize.utils import files

TEMPLATE = Path(__file__).with_name("page.html")


def write(folder: Path, report: dict[str, Any]) -> Path:
    """Write `report.html` beside `report.json`; returns its path.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    path, text = folder / "report.html", render(report)
    files.write(path, lambda aside: aside.write_text(text, encoding="utf-8"))
    return path


def render(report: dict[str, Any]) -> str:
    """The page of a report that fits `report.schema.json`."""
    sections = (
        _head,
        _tiles,
        _before_after,
        figures.pareto,
        figures.waterfalls,
        figures.sensitivity,
        figures.per_class,
        _controls,
        _exports,
        _trials,
        _evidence,
    )
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    body = "\n".join(part for part in (draw(report) for draw in sections) if part)
    return template.substitute(title=escape(f"{report['recipe']}: report"), body=body)


def _points(report: dict[str, Any]) -> str:
    """The metric's change, coloured: -0.66 points."""
    metric = Metric.of(report)
    before, after = (report[entry][metric.name] for entry in ("original", "final"))
    lost = round(metric.lost(before, after) * metric.scale, metric.digits)
    tone = "" if lost == 0 else "bad" if lost > 0 else "good"
    return f'<span class="{tone}">{metric.change(after - before)}</span>'


def _configuration(key: str) -> tuple[str, str]:
    """`batch8_threads2` as ("8", "2")."""
    batch, _, threads = key.removeprefix("batch").partition("_threads")
    return batch, threads


def _head(report: dict[str, Any]) -> str:
    gate, metric = report["gate"], Metric.of(report)
    word = "passed" if gate["passed"] else "failed"
    mark = "✓" if gate["passed"] else "✗"
    budget = f"at most {metric.change(gate['max_drop']).lstrip('+')} of {metric.name} may be lost"
    if gate["min_agreement"]:
        budget += f", agreement at least {percent(gate['min_agreement'])}"
    task = report["task"].replace("_", " ")
    return (
        f"<header><h1>{escape(report['recipe'])}</h1>"
        f'<p class="soft">{escape(task)} · {escape(report["data"]["name"])} · '
        f"{escape(report['created'].replace('T', ' ')[:16])} UTC</p></header>"
        f'<section class="verdict {word}"><span class="mark" aria-hidden="true">{mark}</span>'
        f"<div><b>Gate {word}</b><p>{escape(gate['reason'])}</p>"
        f'<p class="soft">Budget: {budget}. Measured: {metric.change(gate["drop"])} lost on '
        f"{report['final']['samples']:,} held-out samples.</p></div></section>"
    )


def _tiles(report: dict[str, Any]) -> str:
    original, final = report["original"], report["final"]
    metric = Metric.of(report)
    before, after = original[metric.name], final[metric.name]
    then = original["latency_ms"]["batch1_threads1"]["p50"]
    now = final["latency_ms"]["batch1_threads1"]["p50"]
    tiles = [
        (metric.title, metric.text(after), f"from {metric.text(before)}, {_points(report)}"),
        (
            "File",
            size(final["bytes"]),
            f"from {size(original['bytes'])}, "
            f"{times(original['bytes'], final['bytes'], 'smaller', 'larger')}",
        ),
        (
            "Latency, one request",
            milliseconds(now),
            f"from {milliseconds(then)}, {times(then, now, 'faster', 'slower')}",
        ),
        ("Agreement", percent(final["agreement"]), "same answer as the original"),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><span class="soft">{label}</span><b>{value}</b>'
            f'<span class="soft">{note}</span></div>'
            for label, value, note in tiles
        )
        + "</div>"
    )


def _timing(found: dict[str, float]) -> str:
    return f"{milliseconds(found['p50'])}<small>p95 {milliseconds(found['p95'])[:-3]}</small>"


def _before_after(report: dict[str, Any]) -> str:
    original, final = report["original"], report["final"]
    metric = Metric.of(report)

    def score(row: dict[str, Any]) -> str:
        low, high = (f"{end * metric.scale:.{metric.digits}f}" for end in row["ci95"])
        return f"{metric.text(row[metric.name])}<small>{low}&ndash;{high}</small>"

    rows = [
        [f"{metric.title}, 95% interval", score(original), score(final), _points(report)],
    ]
    for key, label in (("parameters", "Parameters"), ("macs", "Multiply-adds")):
        rows.append(
            [
                label,
                count(original[key]),
                count(final[key]),
                times(original[key], final[key], "fewer", "more") if original[key] else "",
            ]
        )
    rows.append(
        [
            "File",
            size(original["bytes"]),
            size(final["bytes"]),
            times(original["bytes"], final["bytes"], "smaller", "larger"),
        ]
    )
    for key, found in final["latency_ms"].items():
        if key not in original["latency_ms"]:
            continue
        batch, threads = _configuration(key)
        then = original["latency_ms"][key]
        label = f"Latency, batch {batch}, {threads} thread{'s' * (threads != '1')}"
        rows.append(
            [
                label,
                _timing(then),
                _timing(found),
                times(then["p50"], found["p50"], "faster", "slower"),
            ]
        )
    lead = (
        "The original runs as eager float32; both models took turns in one run, each in a "
        "process of its own. Latencies are medians of one call with the whole batch; p95: nineteen "
        "of twenty calls were faster."
    )
    return section(
        "Before and after", lead, table(["", "Original", "Final", "Change"], rows, "change")
    )


def _controls(report: dict[str, Any]) -> str:
    if not report["controls"]:
        return ""
    told = {
        "undistilled": "the student trained without a teacher",
        "scratch": "the final shape trained from scratch",
    }
    metric = Metric.of(report)
    rows = [["final model", metric.text(report["final"][metric.name])]]
    for control in report["controls"]:
        name = told.get(control["name"], control["name"])
        rows.append([escape(name), metric.text(control[metric.name])])
    lead = "Models trained on the labels alone, with as many epochs."
    head = ["", metric.title]
    return section("What the chain is worth", lead, table(head, rows))


def _exports(report: dict[str, Any]) -> str:
    rows = []
    metric = Metric.of(report)
    for name, found in report["exports"].items():
        parity, score, ratio = (found.get(k) for k in ("parity", metric.name, "latency_ratio"))
        rows.append(
            [
                escape(name),
                escape(str(found.get("file", ""))),
                size(found["bytes"]) if "bytes" in found else "",
                f"{parity:.2g}" if isinstance(parity, float) else cell(parity),
                metric.text(score) if isinstance(score, float) else cell(score),
                f"{ratio:.2f}x" if isinstance(ratio, float) else cell(ratio),
            ]
        )
    head = ["Format", "File", "Size", "Parity error", metric.title, "Latency to model.pt"]
    return section("Exports", "", table(head, rows)) if rows else ""


def _trials(report: dict[str, Any]) -> str:
    search = report.get("search")
    if not search:
        return ""
    rows = []
    for trial in sorted(search["points"], key=lambda t: (not t.get("front"), t["number"])):
        measured = bool(trial.get("bytes"))
        marks = ["front"] * bool(trial.get("front"))
        marks += ["chosen"] * (trial["number"] == search.get("chosen"))
        state = ", ".join(marks) or trial["state"]
        rows.append(
            [
                f"{trial['number']}",
                f"{-trial['drop'] * 100:+.2f}" if measured else "",
                size(trial["bytes"]) if measured else "",
                f"{1 / trial['latency_ratio']:.1f}x" if trial.get("latency_ratio") else "",
                escape(state),
                escape(trial["stages"]),
            ]
        )
    drawn = table(["Trial", "Points", "File", "Speed", "", "Stages"], rows, "last-text")
    if len(rows) > figures.MANY:
        drawn = f"<details><summary>{len(rows)} trials</summary>{drawn}</details>"
    ended = "finished" if search["finished"] else "was cut short"
    lead = (
        f"The search for the best {escape(search['objective'])} {ended} after "
        f"{len(search['points'])} trials. Points and speed are against the original, "
        "on the validation split."
    )
    return section("Search", lead, drawn)


def _evidence(report: dict[str, Any]) -> str:
    data, machine = report["data"], report["machine"]
    sizes = ", ".join(f"{data[k]:,} {k}" for k in ("train", "validation", "test") if data[k])
    features = ", ".join(machine["features"])
    rows = [
        ("Data", f"{data['name']} ({data['source']}); {sizes}"),
        ("Fingerprint", data["fingerprint"]),
        ("Machine", f"{machine['processor']}, {machine['cores']} cores; {features}"),
        ("Versions", ", ".join(f"{k} {v}" for k, v in report["versions"].items())),
        ("Seed", str(report["seed"])),
        ("Saved file", f"relative error {report['parity']:.2g} after reloading in a new process"),
    ]
    rows += [("Note", note) for note in data["notes"]]
    for stage in report["stages"]:
        left = stage.get("details", {}).get("left_in_float")
        if left:
            told = (
                ", ".join(f"{k} ({v})" for k, v in left.items()) if isinstance(left, dict) else left
            )
            rows.append((f"Left in float by {stage['name']}", str(told)))
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    command = report.get("command")
    again = ""
    if command:
        again = f'<h3 style="margin-top:1rem">Reproduce</h3><pre>{escape(command)}</pre>'
    return section("Evidence", "", f"<dl>{listed}</dl>{again}")
