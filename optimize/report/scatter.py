"""Geometry of the report page's plots of quality over cost; `templates/charts.html` draws them
without a script."""

import math
from dataclasses import dataclass

from optimize.report.labels import LETTER, Budget, Frame, Label, along, placed

_ORDER = ("trial", "best", "stage", "original", "final")  # later kinds are drawn over earlier ones
_UNNAMED = ("trial", "best")


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
class Mark:
    """The circle of a point in the viewBox; `title` is shown when the pointer rests on it."""

    kind: str
    x: float
    y: float
    radius: float
    title: str


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
        left=16 + LETTER * max(map(len, numbers)),
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
            names.append(placed(point.name, x, y, others, names, frame, line, along(joined)))
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
