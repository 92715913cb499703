"""Geometry of the report page's plots of quality over cost, and of where their names stand;
`templates/charts.html` draws them without a script."""

import itertools
import math
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
    joined = [(px(p.x), py(p.y)) for p in front(points, higher_is_better)]
    names: list[Label] = []
    for point, x, y in sorted(places, key=lambda place: -_ORDER.index(place[0].kind)):
        if point.kind not in _UNNAMED:
            others = [(ox, oy) for other, ox, oy in places if other is not point]
            names.append(_name(point.name, x, y, others, names, frame, line, _along(joined)))
    return Scatter(
        title,
        x_label,
        frame,
        [Tick(px(tick), plain(tick)) for tick in _log_ticks(10**left, 10**right)],
        [Tick(py(tick), text) for tick, text in zip(_ticks(low, high), numbers, strict=True)],
        joined,
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
    joined: list[tuple[float, float]],
) -> Label:
    """The name as near to its point as it covers no point, no label, no budget line and, of
    which `joined` are places, no front."""
    name = name if len(name) <= 18 else name[:17] + "…"

    def cost(label: Label) -> float:
        outside = max(0, frame.left - label.x) + max(0, label.right - frame.right)
        outside += max(0, frame.top + 8 - label.base) + max(0, label.base - frame.bottom)
        crossed = sum(_crosses(label, other) for other in labels)
        struck = budget is not None and abs(budget.at - label.middle) < 8
        struck_front = any(
            label.x - 2 < at < label.right + 2 and abs(y - label.middle) < 7 for at, y in joined
        )
        covered = 40 * _hidden(label, points) + 40 * struck + 100 * crossed
        return 10 * outside + covered + 20 * struck_front

    return min(_around(name, x, y), key=cost)


def _along(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Places on the lines between corners, near to one another."""
    return [
        (x + (next_x - x) * part / 50, y + (next_y - y) * part / 50)
        for (x, y), (next_x, next_y) in itertools.pairwise(corners)
        for part in range(51)
    ]


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
