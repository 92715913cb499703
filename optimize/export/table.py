"""The README's table of formats: `python -m optimize.export.table [ARTIFACT ...]`."""

import sys
from pathlib import Path
from typing import Any

from optimize import files, report

PAGE = Path(__file__).resolve().parents[2] / "README.md"
START, END = "<!-- formats:begin -->", "<!-- formats:end -->"
HEAD = (
    "| model | file | size | parity error | metric | agrees | time to eager | time to model.pt |\n"
    "|---|---|---|---|---|---|---|---|"
)


def rows(evidence: dict[str, Any]) -> list[str]:
    """One line per export of a report."""
    found = []
    for name, entry in evidence["exports"].items():
        metric, value = report.metric_of(entry)
        ratios = entry["latency_ratios"] or {}
        cells = [
            evidence["recipe"],
            name,
            report.size(entry["bytes"]),
            f"{entry['parity']:.1g}",
            f"{metric} {value:.4f} ({entry['samples']})",
            f"{entry['agreement']:.3f} ({entry['agreement_samples']})",
            *(_ratios(ratios.get(rival)) for rival in ("eager", "served")),
        ]
        found.append(f"| {' | '.join(cells)} |")
    return found


def _ratios(found: dict[str, float] | None) -> str:
    return " / ".join(f"{ratio:.2f}" for ratio in found.values()) if found else "-"


def versions(reports: list[dict[str, Any]]) -> str:
    """Versions of everything that made or ran a file of the table."""
    found: dict[str, str] = {}
    for evidence in reports:
        for entry in evidence["exports"].values():
            found.update(entry["versions"])
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))


def table(reports: list[dict[str, Any]]) -> str:
    """The table, and what it was made with."""
    body = "\n".join(line for evidence in reports for line in rows(evidence))
    machines = {evidence["machine"]["processor"] for evidence in reports}
    return f"{HEAD}\n{body}\n\n{', '.join(sorted(machines))}; {versions(reports)}."


def main() -> int:
    """Put the table of the artefacts named, or of all that have exports, into the page."""
    named = [Path(argument) for argument in sys.argv[1:]]
    folders = named or sorted(path.parent for path in Path("artifacts").glob("*/report.json"))
    reports = [found for found in map(report.read, folders) if found["exports"]]
    if not reports:
        print("error: no artefact has exports: run `python -m optimize export`", file=sys.stderr)
        return 2
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = f"{before}{START}\n\n{table(reports)}\n\n{END}{after}"
    files.write(PAGE, lambda aside: aside.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
