"""Write the README's tables from the artefacts' own reports: `make figures`.

Reads `artifacts/*/report.json` and `benchmarks/results/preprocess.json`, and replaces what
stands between the README's markers. `--check` only compares.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from optimize.report import metric_of, size

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures:begin -->\n", "<!-- figures:end -->"
RECIPES = ("fashion", "photos")


def before_after(report: dict[str, Any]) -> list[str]:
    """Rows of one artefact: original and final, then its controls."""
    rows = []
    original, final = report["original"], report["final"]
    for title, metrics in (("original, eager fp32", original), ("compressed", final)):
        latency = metrics["latency_ms"]
        cells = [
            f"{report['recipe']}: {title}",
            f"{100 * metric_of(metrics)[1]:.2f} %",
            f"{100 * metrics['ci95'][0]:.1f}-{100 * metrics['ci95'][1]:.1f}",
            f"{metrics['agreement']:.3f}",
            size(metrics["bytes"]),
            f"{latency['batch1_threads1']['p50']:.3g} ms",
            f"{latency['batch8_threads1']['p50']:.3g} ms",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    ratio = [
        f"{original['bytes'] / final['bytes']:.1f}x",
        *(
            f"{original['latency_ms'][key]['p50'] / final['latency_ms'][key]['p50']:.1f}x"
            for key in ("batch1_threads1", "batch8_threads1")
        ),
    ]
    points = 100 * (metric_of(final)[1] - metric_of(original)[1])
    cells = [f"{points:+.2f} points", "", "", *ratio]
    rows.append("| | " + " | ".join(f"**{c}**" if c else "" for c in cells) + " |")
    for control in report["controls"]:
        titles = {
            "undistilled": "control: the student without a teacher, fp32",
            "scratch": "control: the final shape from scratch, fp32",
        }
        rows.append(
            f"| {report['recipe']}: {titles.get(control['name'], control['name'])} | "
            f"{100 * control['accuracy']:.2f} % | "
            f"{100 * control['ci95'][0]:.1f}-{100 * control['ci95'][1]:.1f} | | | | |"
        )
    return rows


def figures() -> str:
    """The generated part of the README."""
    lines = [
        "| model | accuracy | 95% interval | agreement | file | batch 1 | batch 8 |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for name in RECIPES:
        report = json.loads((ROOT / "artifacts" / name / "report.json").read_text())
        lines += before_after(report)
        machine = report["machine"]
        features = ", ".join(machine["features"])
        notes.append(
            f"`python -m optimize run recipes/{name}.yaml` on {report['created'][:10]}: "
            f"{report['final']['samples']} test images, {machine['processor']} "
            f"({machine['cores']} cores, {features}), one thread, torch "
            f"{report['versions']['torch']}."
        )
    found = json.loads((ROOT / "benchmarks" / "results" / "preprocess.json").read_text())
    notes.append(
        "Pre-processing against Pillow, one thread, same top-1 on all 20 photographs: "
        + ", ".join(
            f"{side} JPEG {row['ours_ms']:.1f} against {row['pillow_ms']:.1f} ms "
            f"({row['ratio']:.2f}x)"
            for side, row in found["sizes"].items()
        )
        + f" (`make bench-preprocess`, {found['date'][:10]})."
    )
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def main() -> int:
    """Rewrite the README, or with --check return 1 where it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    made = head + BEGIN + figures() + END + tail
    if arguments.check:
        return int(made != text)
    path.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
