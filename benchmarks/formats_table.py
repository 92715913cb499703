"""The table of formats in docs/figures.md: `python -m benchmarks.formats_table [ARTIFACT ...]`."""

import sys
from pathlib import Path
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.export.formats.registry import NAMES
from optimize.report import report
from optimize.utils import files

PAGE = Path(__file__).resolve().parents[1] / "docs" / "figures.md"
START, END = "<!-- formats:begin -->", "<!-- formats:end -->"
HEAD = (
    "| file | size | parity error | {metric} | agrees | time to eager | time to model.pt |\n"
    "|---|---|---|---|---|---|---|"
)


def rows(evidence: dict[str, Any]) -> list[str]:
    """One line per export of a report, in the order of `NAMES`."""
    lines, metric = [], Metric.of(evidence)
    exports = sorted(evidence["exports"].items(), key=lambda row: NAMES.index(row[1]["format"]))
    for name, entry in exports:
        ratios = entry["latency_ratios"] or {}
        cells = [
            name,
            report.size(entry["bytes"]),
            f"{entry['parity']:.2g}",
            f"{metric.scale * entry[metric.name]:.{metric.digits}f} {metric.unit}",
            f"{entry['agreement']:.3f}",
            *(_ratios(ratios.get(rival)) for rival in ("eager", "served")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ratios(by_batch: dict[str, float] | None) -> str:
    return " / ".join(f"{ratio:.2f}" for ratio in by_batch.values()) if by_batch else "-"


def model(evidence: dict[str, Any]) -> str:
    """One report's table, folded under a line that names the data it was measured on."""
    entries = evidence["exports"].values()
    counts: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for entry in entries:
        counts.setdefault((entry["samples"], entry["agreement_samples"]), []).append(entry)
    usual = max(counts, key=lambda pair: len(counts[pair]))
    title = f"{evidence['recipe']}: {len(entries)} files, {_samples(*usual)}"
    for pair, group in counts.items():
        if pair != usual:
            names = dict.fromkeys(entry["format"] for entry in group)
            title += f" ({', '.join(names)}: {_samples(*pair)})"
    body = "\n".join(rows(evidence))
    head = HEAD.format(metric=Metric.of(evidence).title.lower())
    return f"<details markdown><summary>{title}</summary>\n\n{head}\n{body}\n\n</details>"


def _samples(labelled: int, compared: int) -> str:
    if labelled == compared:
        return f"{labelled:,} held-out samples"
    return f"{labelled:,} labelled samples, {compared:,} compared"


def versions(reports: list[dict[str, Any]]) -> str:
    """Versions of every package that wrote or ran a file of the table."""
    by_package: dict[str, str] = {}
    for evidence in reports:
        for entry in evidence["exports"].values():
            by_package.update(entry["versions"])
    return ", ".join(f"{name} {version}" for name, version in sorted(by_package.items()))


def table(reports: list[dict[str, Any]]) -> str:
    """A table for every model, then the machines, days and versions."""
    machines = {evidence["machine"]["processor"] for evidence in reports}
    days = {evidence["created"][:10] for evidence in reports}
    source = f"{', '.join(sorted(machines))}, one thread, models of {', '.join(sorted(days))}. "
    source += f"Versions: {versions(reports)}."
    return "\n\n".join([*map(model, reports), source])


def main() -> int:
    """Put the table of the artifacts named, or of all that have exports, into the page."""
    named = [Path(argument) for argument in sys.argv[1:]]
    folders = named or sorted(path.parent for path in Path("artifacts").glob("*/report.json"))
    reports = [evidence for evidence in map(report.read, folders) if evidence["exports"]]
    if not reports:
        print("error: no artifact has exports: run `python -m optimize export`", file=sys.stderr)
        return 2
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    text = f"{before}{START}\n\n{table(reports)}\n\n{END}{after}"
    files.write(PAGE, lambda aside: aside.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
