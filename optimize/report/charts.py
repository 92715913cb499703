"""Geometry of the report page's charts; `templates/charts.html` draws them without a script."""

import math
from collections.abc import Callable
from dataclasses import dataclass

_LETTER = 6.6  # how wide a letter is on average, in units of the viewBox
_ORDER = ("trial", "best", "stage", "original", "final")  # later kinds are drawn over earlier ones
_UNNAMED = ("trial", "best")


@dataclass(frozen=True)
class Frame:
    """A plot's viewBox and the edges of what lies within its axes, in the same units."""

    width: int = 400
    height: int = 300
    left: float = 50
    right: float = 386
    top: float = 14
    bottom: float = 256


@dataclass(frozen=True)
class Point:
    """A model in the Pareto plot. `kind` is original, stage, final, best or trial."""

    name: str
    x: float
    y: float
    kind: str
    x_text: str
    y_text: str


@dataclass(frozen=True)
class Tick:
    """A line of the grid: its x or y in the viewBox, and the number beside it."""

    at: float
    text: str


@dataclass(frozen=True)
class Label:
    """Words in a plot.

    Attributes:
        text: the words.
        x: of its left edge, in the viewBox.
        base: y of the base line.
        to: x and y of the end of a thin line to what it names; None for none.
    """

    text: str
    x: float
    base: float
    to: tuple[float, float] | None = None

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def middle(self) -> float:
        """y of the middle of its letters."""
        return self.base - 4

    @property
    def width(self) -> float:
        """Roughly: fonts differ."""
        return _LETTER * len(self.text)


@dataclass(frozen=True)
class Mark:
    """The circle of a point in the viewBox; `title` is shown when the pointer rests on it."""

    kind: str
    x: float
    y: float
    radius: float
    title: str


@dataclass(frozen=True)
class Budget:
    """The line that the gate draws: its y in the viewBox, and its label."""

    at: float
    label: Label


@dataclass(frozen=True)
class Scatter:
    """A plot of quality (linear) over cost (logarithmic), laid out.

    Attributes:
        title: read out by screen readers.
        x_label: of the x axis.
        frame: the viewBox.
        x_ticks, y_ticks: of the axes.
        front: x and y, in the viewBox, of the points that no other beats in both ways.
        marks: the points, the most important last.
        names: of the points that are not trials.
        budget: None where there is no line to draw.
    """

    title: str
    x_label: str
    frame: Frame
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    front: list[tuple[float, float]]
    marks: list[Mark]
    names: list[Label]
    budget: Budget | None


def front(points: list[Point], higher_is_better: bool) -> list[Point]:
    """Points that no other beats in both ways (smaller x, better y), by rising x."""
    sign = 1 if higher_is_better else -1
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not best or sign * point.y > sign * best[-1].y:
            best.append(point)
    return best


def _ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between low and high."""
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 2.5, 5, 10) if s * unit >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between low and high, thinned to seven at most."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) <= 6:
            break
    return ticks


def plain(value: float) -> str:
    """A number without trailing zeros: 0.05, 2, 1500."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def scatter(
    points: list[Point],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_unit: str = "%",
    higher_is_better: bool = True,
    budget: float | None = None,
) -> Scatter:
    """Lay out quality (linear) over cost (logarithmic), its front as a line.

    Args:
        points: cost x above 0, quality y as it is printed.
        title: read out by screen readers.
        x_label, y_label: of the axes.
        y_unit: follows the numbers of the y axis.
        higher_is_better: whether larger y is better.
        budget: y of the line that the gate draws.
    """
    xs = [p.x for p in points]
    ys = [p.y for p in points] + ([budget] if budget is not None else [])
    span = max(max(ys) - min(ys), 0.2)
    low, high = min(ys) - 0.12 * span, max(ys) + 0.15 * span
    left, right = math.log10(min(xs)) - 0.12, math.log10(max(xs)) + 0.12

    numbers = [f"{plain(tick)}{y_unit}" for tick in _ticks(low, high)]
    frame = Frame(
        left=16 + _LETTER * max(map(len, numbers)),
        # The budget's name stands outside, where no point can be.
        right=Frame.right - (0 if budget is None else Label("budget", 0, 0).width),
    )

    def px(x: float) -> float:
        share = (math.log10(x) - left) / (right - left)
        return round(frame.left + share * (frame.right - frame.left), 1)

    def py(y: float) -> float:
        share = (y - low) / (high - low)
        return round(frame.bottom - share * (frame.bottom - frame.top), 1)

    places = [(point, px(point.x), py(point.y)) for point in points]
    marks = [
        Mark(
            point.kind,
            x,
            y,
            4 if point.kind in _UNNAMED else 5.5,
            f"{point.name}: {y_label} {point.y_text}, {point.x_text}",
        )
        for point, x, y in sorted(places, key=lambda place: _ORDER.index(place[0].kind))
    ]
    line = None
    if budget is not None:
        line = Budget(py(budget), Label("budget", frame.right + 4, round(py(budget) + 4, 1)))
    names: list[Label] = []
    for point, x, y in sorted(places, key=lambda place: -_ORDER.index(place[0].kind)):
        if point.kind not in _UNNAMED:
            others = [(ox, oy) for other, ox, oy in places if other is not point]
            names.append(_name(point.name, x, y, others, names, frame, line))
    return Scatter(
        title,
        x_label,
        frame,
        [Tick(px(tick), plain(tick)) for tick in _log_ticks(10**left, 10**right)],
        [Tick(py(tick), text) for tick, text in zip(_ticks(low, high), numbers, strict=True)],
        [(px(p.x), py(p.y)) for p in front(points, higher_is_better)],
        marks,
        names,
        line,
    )


def _name(
    name: str,
    x: float,
    y: float,
    points: list[tuple[float, float]],
    labels: list[Label],
    frame: Frame,
    budget: Budget | None,
) -> Label:
    """The name as near to its point as it covers no point, no label and no budget line."""
    name = name if len(name) <= 18 else name[:17] + "…"

    def cost(label: Label) -> float:
        outside = max(0, frame.left - label.x) + max(0, label.right - frame.right)
        outside += max(0, frame.top + 8 - label.base) + max(0, label.base - frame.bottom)
        crossed = sum(_crosses(label, other) for other in labels)
        struck = budget is not None and abs(budget.at - label.middle) < 8
        return 10 * outside + 40 * _hidden(label, points) + 40 * struck + 100 * crossed

    return min(_around(name, x, y), key=cost)


def _around(name: str, x: float, y: float) -> list[Label]:
    """Places for the name of a point at x and y: beside it first, then ever farther above and
    below, with a line to the point."""
    width = Label(name, 0.0, 0.0).width
    found = []
    for away in (0, *range(18, 150, 12)):
        rows = (0, -12, 14) if not away else (-away, away)
        for dy in rows:
            for dx in (1, -1, 0) if dy or away else (1, -1):
                left = x - width / 2 + dx * (width / 2 + 10)
                end = (x, round(y + (6 if dy > 0 else -6), 1)) if away else None
                found.append(Label(name, round(left, 1), round(y + 4 + dy, 1), end))
    return found


def _crosses(one: Label, other: Label) -> bool:
    """Whether two labels lie on one another; letters are 9 above the base line."""
    return one.x < other.right and other.x < one.right and abs(other.base - one.base) < 13


def _hidden(label: Label, points: list[tuple[float, float]]) -> int:
    """How many points the label covers."""
    return sum(label.x - 7 < x < label.right + 7 and abs(y - label.middle) < 11 for x, y in points)


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
