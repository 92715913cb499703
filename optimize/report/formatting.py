"""Figures as people read them on the report page."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Text:
    """A value on the page; the templates escape it.

    Attributes:
        text: the value for people.
        tone: `good`, `bad`, or empty for neither.
        note: smaller, under the value.
    """

    text: str
    tone: str = ""
    note: str = ""


def percent(share: float) -> str:
    """0.925 as 92.50%."""
    return f"{share * 100:.2f}%"


def milliseconds(value: float) -> str:
    """Three digits that count: 0.0762 ms, 12.3 ms."""
    digits = 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f} ms"


def count(value: float) -> str:
    """Parameters and multiply-adds: 253.7k, 10.1M."""
    for unit in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}G"


def times(before: float, after: float, better: str, worse: str) -> Text:
    """How a cost changed: `21.4x faster`."""
    ratio = before / after if after else 0.0
    if 0.995 <= ratio <= 1.005:
        return Text("unchanged")
    if ratio > 1:
        return Text(f"{ratio:.1f}x {better}", "good")
    return Text(f"{1 / (ratio or 1):.1f}x {worse}", "bad")


def cell(value: Any) -> str:
    """A value of `report.json` in a table, whatever its type."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)
