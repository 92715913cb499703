"""Geometry of the report page's rows of bars; `templates/charts.html` draws them."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A row of a waterfall; `text` is the value for people."""

    name: str
    value: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A row with a bar.

    Attributes:
        name: of the row.
        left, width: of the bar, in per cent of the row's track.
        text: the value for people.
        tone: `good`, `bad`, `total`, or empty for none of them.
        note: smaller, before the value.
    """

    name: str
    left: float
    width: float
    text: str
    tone: str = ""
    note: str = ""


@dataclass(frozen=True)
class Waterfall:
    """Bars under a title: the first and the last whole, those between only what they changed."""

    title: str
    bars: list[Bar]


def waterfall(
    title: str,
    steps: list[Step],
    *,
    higher_is_better: bool,
    change: Callable[[float], str] | None = None,
) -> Waterfall:
    """Lay out the bars of what every step changed.

    Args:
        title: above the rows.
        steps: the original, every stage, and the final model.
        higher_is_better: decides which changes are green.
        change: a difference in words; the axis then starts a little below the smallest value.
            Without it, at 0, and differences are in per cent.
    """
    from_zero = change is None
    values = [s.value for s in steps]
    span = max(values) - min(values)
    start = 0.0 if from_zero else min(values) - 0.35 * (span or 1.0)
    end = max(values) + (0.0 if from_zero else 0.05 * (span or 1.0))
    scale = 100 / ((end - start) or 1.0)
    bars = []
    for number, step in enumerate(steps):
        before = steps[number - 1].value if number else start
        whole = number in (0, len(steps) - 1)
        low, high = (start, step.value) if whole else sorted((before, step.value))
        note, tone = "", "total" if number else ""
        if not whole:
            delta = step.value - before
            better = (delta > 0) == higher_is_better
            tone = "" if delta == 0 else "good" if better else "bad"
            note = change(delta) if change else _per_cent(before, step.value)
        left, width = round((low - start) * scale, 2), round((high - low) * scale, 2)
        bars.append(Bar(step.name, left, width, step.text, tone, note))
    return Waterfall(title, bars)


def _per_cent(before: float, after: float) -> str:
    """How a step changed a cost: `57% less`."""
    share = round((after / before - 1) * 100) if before else 0
    return f"{abs(share)}% {'more' if share > 0 else 'less'}" if share else ""


def diverging(name: str, delta: float, largest: float, text: str, note: str) -> Bar:
    """A bar that leaves the middle to the right (better) or left (worse); none for no change."""
    width = abs(delta) / (largest or 1.0) * 50
    left = 50.0 if delta >= 0 else 50 - width
    tone = "good" if delta > 0 else "bad" if delta < 0 else ""
    return Bar(name, round(left, 2), round(width, 2), text, tone, note)


def bar(name: str, value: float, largest: float, text: str) -> Bar:
    """A bar from zero."""
    width = max(0.0, value) / (largest or 1.0) * 100
    return Bar(name, 0.0, round(width, 2), text)
