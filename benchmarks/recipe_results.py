"""What the recipes' reports said, kept in `benchmarks/results/recipes.json` for the documents.

A report in `artifacts/` replaces the entry of its recipe; recipes that were not run here keep
what was measured before, with its machine and day.
"""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "recipes.json"
RECIPES = ("fashion", "photos", "sentiment", "sentiment_full", "speech")
_TIMED = ("batch1_threads1", "batch8_threads1")


def read() -> dict[str, dict[str, Any]]:
    """Entries by recipe, in the documents' order."""
    entries = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {name: entries[name] for name in RECIPES if name in entries}


def update(artifacts: Path) -> None:
    """Take in the reports of the recipes that were run here."""
    entries = read() if RESULTS.is_file() else {}
    for name in RECIPES:
        path = artifacts / name / "report.json"
        if path.is_file():
            entries[name] = entry(json.loads(path.read_text(encoding="utf-8")))
    ordered = {name: entries[name] for name in RECIPES if name in entries}
    RESULTS.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")


def entry(report: dict[str, Any]) -> dict[str, Any]:
    """The part of a report that the documents show."""
    metric = report["metric"]["name"]

    def row(source: dict[str, Any]) -> dict[str, Any]:
        return {
            **{key: source[key] for key in (metric, "samples", "ci95", "agreement", "bytes")},
            "latency_ms": {key: {"p50": source["latency_ms"][key]["p50"]} for key in _TIMED},
        }

    return {
        "recipe": report["recipe"],
        "created": report["created"][:10],
        "machine": {key: report["machine"][key] for key in ("processor", "features")},
        "versions": {"torch": report["versions"]["torch"]},
        "metric": report["metric"],
        "original": row(report["original"]),
        "final": row(report["final"]),
        "controls": [
            {key: control[key] for key in ("name", metric)} for control in report["controls"]
        ],
    }
