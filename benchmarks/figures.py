"""Write the tables of README.md and docs/figures.md from the artifacts' reports: `make figures`.

Takes the reports in `artifacts/` into `benchmarks/results/recipes.json`, and replaces the text
between the pages' markers, and their picture, by what stands in `benchmarks/results/*.json`.
`--check` only compares.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import before_after, recipe_results
from optimize.evaluation.metrics import Metric
from optimize.report.report import size

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures:begin -->\n", "<!-- figures:end -->"
CONTROLS = {
    "undistilled": "the student without a teacher",
    "scratch": "the final shape from scratch",
}


def row(report: dict[str, Any]) -> str:
    """One artifact as a row of the whole table: before, after and their ratio."""
    final, metric = report["final"], Metric.of(report)
    low, high = (metric.scale * bound for bound in final["ci95"])
    cells = [
        report["recipe"],
        f"{measured(report)} ({low:.1f}-{high:.1f})",
        f"{final['agreement']:.3f}" if "agreement" in final else "",
        shrunk(report),
        faster(report, "batch1_threads1"),
        faster(report, "batch8_threads1"),
    ]
    return "| " + " | ".join(cells) + " |"


def short_row(report: dict[str, Any]) -> str:
    """One artifact as a row of the README's table."""
    cells = [report["recipe"], measured(report), shrunk(report), faster(report, "batch1_threads1")]
    return "| " + " | ".join(cells) + " |"


def measured(report: dict[str, Any]) -> str:
    """The metric before and after."""
    metric = Metric.of(report)
    first, last = (metric.scale * report[key][metric.name] for key in ("original", "final"))
    return f"{metric.title.lower()} {first:.2f} to **{last:.2f} {metric.unit}**"


def shrunk(report: dict[str, Any]) -> str:
    """The file's size before and after."""
    first, last = (report[key]["bytes"] for key in ("original", "final"))
    return f"{size(first)} to {size(last)}, **{first / last:.1f}x**"


def faster(report: dict[str, Any], key: str) -> str:
    """The median latency before and after; `key` such as batch1_threads1."""
    slow, fast = (report[when]["latency_ms"][key]["p50"] for when in ("original", "final"))
    return f"{milliseconds(slow)} to {milliseconds(fast)} ms, **{slow / fast:.1f}x**"


def milliseconds(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def notes(reports: list[dict[str, Any]]) -> list[str]:
    """What the rows were measured on, and the reports' controls."""
    held_out = ", ".join(f"{r['recipe']} {r['final']['samples']:,}" for r in reports)
    lines = [
        f"`python -m optimize run recipes/NAME.yaml`, one thread. Held-out samples: {held_out}."
    ]
    places: dict[str, list[str]] = {}
    for report in reports:
        machine, torch = report["machine"], report["versions"]["torch"]
        place = f"{machine['processor']} ({', '.join(machine['features'])}), torch {torch}"
        places.setdefault(f"{report['created']}, {place}", []).append(report["recipe"])
    lines += [f"{', '.join(names)}: {place}." for place, names in places.items()]
    for report in reports:
        metric = Metric.of(report)
        controls = [
            f"{CONTROLS.get(c['name'], c['name'])} {metric.scale * c[metric.name]:.2f} "
            f"{metric.unit}"
            for c in report["controls"]
        ]
        if controls:
            lines.append(f"Controls of {report['recipe']}, in float: {', '.join(controls)}.")
    return lines


def preprocessing(results: dict[str, Any]) -> str:
    """The pre-processing benchmark in a line."""
    return (
        "Pre-processing against Pillow, one thread, same top-1 on all 20 photographs: "
        + ", ".join(
            f"{side} JPEG {row['ours_ms']:.1f} against {row['pillow_ms']:.1f} ms "
            f"({row['ratio']:.2f}x)"
            for side, row in results["sizes"].items()
        )
        + f" (`make bench-preprocess`, {results['date'][:10]})."
    )


def compression(results: dict[str, Any]) -> str:
    """Our int8 TorchScript against OpenVINO's faster precision, one thread."""
    pairs: dict[str, list[str]] = {}
    for line in results["rows"]:
        if line["threads"] == 1 and line["ours"] and line["openvino"]:
            pairs.setdefault(line["model"], []).append(f"{line['ours'] / line['openvino']:.2f}x")
    return (
        "Our int8 TorchScript's speed over OpenVINO's (int8 through NNCF or bf16, the faster), one "
        "thread, batch 1 / 8: "
        + ", ".join(f"{model} {' / '.join(ratios)}" for model, ratios in pairs.items())
        + " (`make bench-compress`, [lowering](lowering.md))."
    )


def speech(results: dict[str, Any]) -> str:
    """Whisper against the original and faster-whisper."""
    speeds, rivals = results["speedup"]["threads1"], results["faster_whisper_int8"]
    return (
        f"Whisper tiny.en, {results['ours']['utterances']} utterances, one thread: word error rate "
        f"{100 * results['ours']['wer']:.2f} % (original {100 * results['original']['wer']:.2f} %, "
        f"faster-whisper int8 {100 * rivals['wer']:.2f} %); "
        f"{speeds['ours_over_original'][0]:.1f}x the original's speed, "
        f"{speeds['ours_over_faster_whisper_int8'][0]:.1f}x faster-whisper's (padded to 30 s like "
        f"theirs {speeds['ours_padded_over_faster_whisper_int8'][0]:.1f}x); batch 8 does "
        f"{results['batching']['batch8_over_batch1']:.2f}x batch 1's throughput; worker "
        f"{results['ours']['rss_mb']:.0f} MB (`make bench-speech`)."
    )


_SERVERS = {
    "torchserve": "**ours in TorchServe**",
    "service": "**ours in our own service**",
    "flask": "Flask, gunicorn sync",
    "fastapi": "FastAPI, uvicorn",
    "litserve": "LitServe",
    "litserve_batch4": "LitServe, batch 4",
    "mosec": "mosec, batch 4",
    "bentoml": "BentoML, batch 4",
    "ray": "Ray Serve, batch 4",
}


def serving(results: dict[str, Any]) -> list[str]:
    """The serving race: a table for each kind of input, and what it means for a user."""
    lines = []
    for kind in ("images", "text", "speech"):
        if kind not in results:
            continue
        found = results[kind]
        columns = list(found["clients"])
        lines += [
            "",
            f"| {kind}: answers a second / p50 ms, {found['artifact']} | "
            + " | ".join(f"{c} client{'s' * (c != '1')}" for c in columns)
            + " |",
            "|---" * (1 + len(columns)) + "|",
        ]
        for server, title in _SERVERS.items():
            cells = [found["clients"][c].get(server) for c in columns]
            if any(cells):
                row = [f"{m['rps']:.0f} / {m['p50_ms']:.1f}" if m else "" for m in cells]
                lines.append(f"| {title} | " + " | ".join(row) + " |")
        ceiling = ", ".join(f"batch {b} {v:.0f}" for b, v in found["ceiling_by_batch"].items())
        more = [f"Without a server, in two processes: {ceiling}"]
        if "gain" in found:
            gains = " / ".join(f"{ratio:.1f}x" for ratio in found["gain"]["ratio"].values())
            more.append(
                f"our archive in TorchServe over the float32 original in {found['gain']['peer']} "
                f"with {' / '.join(found['gain']['ratio'])} clients: {gains}"
            )
        if "arrivals" in found:
            rates = ", ".join(
                f"{server} {m['server_rps']:.0f}" for server, m in found["arrivals"].items()
            )
            bound = next(iter(found["arrivals"].values()))["bound_ms"]
            more.append(f"Poisson arrivals a second with p99 under {bound:g} ms (LoadGen): {rates}")
        lines += ["", f"{'; '.join(more)} (`make bench-serve`, {results['date']})."]
    return lines


def short() -> str:
    """The generated part of the README: a line for each model."""
    reports = list(recipe_results.read().values())
    lines = [
        "| model | original to compressed | file | one answer, one thread |",
        "|---|---|---|---|",
        *map(short_row, reports),
    ]
    return "\n".join(lines) + "\n"


def figures() -> str:
    """The generated part of docs/figures.md."""
    lines = [
        "| model | original to compressed (95% interval) | agreement | file | batch 1 | batch 8 |",
        "|---|---|---|---|---|---|",
    ]
    reports = list(recipe_results.read().values())
    lines += map(row, reports)
    lines += ["", *(f"- {note}" for note in notes(reports))]
    folder = ROOT / "benchmarks" / "results"
    for name, describe in (
        ("preprocess", preprocessing),
        ("compress", compression),
        ("speech", speech),
    ):
        results = json.loads((folder / f"{name}.json").read_text())
        lines.append(f"- {describe(results)}")
    if (folder / "serving.json").is_file():
        lines += serving(json.loads((folder / "serving.json").read_text()))
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """Path below the repository's root -> its text as it should be."""
    updated = {before_after.PICTURE: before_after.draw(recipe_results.read())}
    for name, generated in (("README.md", short()), ("docs/figures.md", figures())):
        head, rest = (ROOT / name).read_text(encoding="utf-8").split(BEGIN, 1)
        updated[name] = head + BEGIN + generated + END + rest.split(END, 1)[1]
    return updated


def main() -> int:
    """Rewrite the pages, or with --check return 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        recipe_results.update(ROOT / "artifacts")
    for name, text in pages().items():
        path = ROOT / name
        if arguments.check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            print(f"{name} is not what `make figures` writes", file=sys.stderr)
            return 1
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
