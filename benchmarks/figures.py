"""Write the README's tables from the artifacts' own reports: `make figures`.

Takes the reports in `artifacts/` into `benchmarks/results/recipes.json`, and replaces the text
between the README's markers by what stands in `benchmarks/results/*.json`. `--check` only compares.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import recipe_results
from optimize.evaluation.metrics import Metric
from optimize.report.report import size

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures:begin -->\n", "<!-- figures:end -->"
CONTROLS = {
    "undistilled": "the student without a teacher",
    "scratch": "the final shape from scratch",
}


def row(report: dict[str, Any]) -> str:
    """One artifact as a row of the table: before, after and their ratio."""
    original, final = report["original"], report["final"]
    metric = Metric.of(report)
    first, last = (metric.scale * row[metric.name] for row in (original, final))
    low, high = (metric.scale * bound for bound in final["ci95"])
    cells = [
        report["recipe"],
        f"{metric.title.lower()} {first:.2f} to **{last:.2f} {metric.unit}** "
        f"({low:.1f}-{high:.1f})",
        f"{final['agreement']:.3f}" if "agreement" in final else "",
        f"{size(original['bytes'])} to {size(final['bytes'])}, "
        f"**{original['bytes'] / final['bytes']:.1f}x**",
    ]
    for key in ("batch1_threads1", "batch8_threads1"):
        slow, fast = (m["latency_ms"][key]["p50"] for m in (original, final))
        times = f"{milliseconds(slow)} to {milliseconds(fast)} ms"
        cells.append(f"{times}, **{slow / fast:.1f}x**")
    return "| " + " | ".join(cells) + " |"


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
        + " (`make bench-compress`, [docs/lowering.md](docs/lowering.md))."
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


def figures() -> str:
    """The generated part of the README."""
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
        measured = json.loads((folder / f"{name}.json").read_text())
        lines.append(f"- {describe(measured)}")
    if (folder / "serving.json").is_file():
        lines += serving(json.loads((folder / "serving.json").read_text()))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Rewrite the README, or with --check return 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        recipe_results.update(ROOT / "artifacts")
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    updated = head + BEGIN + figures() + END + tail
    if arguments.check:
        return int(updated != text)
    path.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
