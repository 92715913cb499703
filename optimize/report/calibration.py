"""Geometry of the reliability diagrams; `templates/charts.html` draws them."""

from dataclasses import dataclass
from typing import Any

from optimize.report.formatting import percent

SIDE, LEFT, TOP, STRIP = 220, 40, 10, 28
"""Of the square from 0 to 100%, its place, and the height of the strip of counts below."""
FEW = 300  # answers: with fewer, bars say little


@dataclass(frozen=True)
class Column:
    """A bin: its bar of accuracy and, below the square, its share of the answers.

    Attributes:
        x, width: of both.
        y, height: of the bar.
        share: height of the bar below, from the square's lower edge.
        tone: `over` where the model is surer than it is right, else `under`.
        title: shown when the pointer rests on it.
    """

    x: float
    width: float
    y: float
    height: float
    share: float
    tone: str
    title: str


@dataclass(frozen=True)
class Diagram:
    """Accuracy by confidence of one model, from so many answers."""

    name: str
    error: str
    answers: int
    columns: list[Column]


def diagrams(report: dict[str, Any]) -> list[Diagram]:
    """Of the original and the final model; none where the report has no reliability."""
    found = report.get("reliability")
    if not found:
        return []
    return [
        Diagram(
            name,
            percent(found[key]["ece"]),
            sum(row["samples"] for row in found[key]["bins"]),
            _columns(found[key]["bins"]),
        )
        for key, name in (("original", "Original"), ("final", "Final"))
    ]


def _columns(bins: list[dict[str, Any]]) -> list[Column]:
    width = SIDE / len(bins)
    most = max(row["samples"] for row in bins) or 1
    return [
        Column(
            round(LEFT + number * width + 0.75, 2),
            round(width - 1.5, 2),
            round(TOP + SIDE * (1 - row["accuracy"]), 2),
            round(SIDE * row["accuracy"], 2),
            round(max(1.0, STRIP * row["samples"] / most), 2),
            "over" if row["confidence"] > row["accuracy"] else "under",
            f"{row['samples']:,} answers, {percent(row['confidence'])} sure, "
            f"{percent(row['accuracy'])} right",
        )
        for number, row in enumerate(bins)
        if row["samples"]
    ]
