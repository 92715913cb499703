"""Charts of the report page: inline SVG and CSS bars, no script, nothing fetched."""

import math
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 14, 44


@dataclass(frozen=True)
class Point:
    """A model in the Pareto plot. `kind` is original, stage, final, best or trial."""

    name: str
    x: float
    y: float
    kind: str
    x_text: str
    y_text: str


def front(points: list[Point], higher_is_better: bool) -> list[Point]:
    """Points that no other beats in both ways (smaller x, better y), by rising x."""
    sign = 1 if higher_is_better else -1
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -sign * p.y)):
        if not kept or sign * point.y > sign * kept[-1].y:
            kept.append(point)
    return kept


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
        found = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(found) <= 6:
            break
    return found


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
) -> str:
    """An SVG of quality (linear) over cost (logarithmic), its front as a line.

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

    def px(x: float) -> float:
        share = (math.log10(x) - left) / (right - left)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def py(y: float) -> float:
        share = (y - low) / (high - low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    bottom, end = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in _ticks(low, high):
        y = py(tick)
        parts.append(f'<line class="axis" x1="{_LEFT}" y1="{y}" x2="{end}" y2="{y}"/>')
        label = f"{plain(tick)}{escape(y_unit)}"
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for tick in _log_ticks(10**left, 10**right):
        x = px(tick)
        parts.append(f'<line class="axis" x1="{x}" y1="{_TOP}" x2="{x}" y2="{bottom}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{plain(tick)}</text>')
    parts.append(
        f'<text x="{(_LEFT + end) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    if budget is not None:
        y = py(budget)
        above = y - 5 if higher_is_better else y + 14
        parts.append(f'<line class="budget" x1="{_LEFT}" y1="{y}" x2="{end}" y2="{y}"/>')
        parts.append(
            f'<text class="limit" x="{end - 2}" y="{above}" text-anchor="end">budget</text>'
        )
    line = front(points, higher_is_better)
    if len(line) > 1:
        path = " ".join(f"{px(p.x)},{py(p.y)}" for p in line)
        parts.append(f'<polyline class="front" points="{path}"/>')
    order = ("trial", "best", "stage", "original", "final")
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda p: order.index(p.kind)):
        x, y = px(point.x), py(point.y)
        radius = 4 if point.kind in ("trial", "best") else 5.5
        told = escape(f"{point.name}: {y_label} {point.y_text}, {point.x_text}")
        parts.append(
            f'<circle class="{point.kind}" cx="{x}" cy="{y}" r="{radius}">'
            f"<title>{told}</title></circle>"
        )
    for point in sorted(points, key=lambda p: -order.index(p.kind)):
        if point.kind not in ("trial", "best"):
            obstacles = [(px(p.x), py(p.y)) for p in points if p is not point]
            parts.append(_label(point, px(point.x), py(point.y), obstacles, taken))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _label(
    point: Point,
    x: float,
    y: float,
    obstacles: list[tuple[float, float]],
    taken: list[tuple[float, float, float]],
) -> str:
    """The point's name beside it, where it covers neither another point nor a label."""
    name = point.name if len(point.name) <= 18 else point.name[:17] + "…"
    width = 6.6 * len(name)
    places = [
        (x - width / 2 + dx * (width / 2 + 10), y + 4 + dy)
        for dx, dy in ((1, 0), (-1, 0), (0, -12), (0, 14), (1, -12), (-1, -12), (1, 14), (-1, 14))
    ]

    def cost(place: tuple[float, float]) -> float:
        left, base = place
        outside = max(0, _LEFT - left) + max(0, left + width - _WIDTH + _RIGHT)
        outside += max(0, _TOP + 8 - base) + max(0, base - _HEIGHT + _BOTTOM)
        hidden = sum(
            left - 7 < ox < left + width + 7 and abs(oy - base + 4) < 11 for ox, oy in obstacles
        )
        crossed = sum(
            left < other + w and other < left + width and abs(b - base) < 13
            for other, w, b in taken
        )
        return 10 * outside + 40 * hidden + 100 * crossed

    left, base = min(places, key=cost)
    taken.append((left, width, base))
    return f'<text class="name" x="{left:.1f}" y="{base:.1f}">{escape(name)}</text>'


@dataclass(frozen=True)
class Step:
    """A row of a waterfall; `text` is the value for people."""

    name: str
    value: float
    text: str


def waterfall(
    title: str, steps: list[Step], *, higher_is_better: bool, from_zero: bool = True
) -> str:
    """Rows of bars: the first and the last whole, those between only what they changed.

    Args:
        title: above the rows.
        steps: the original, every stage, and the final model.
        higher_is_better: decides which changes are green.
        from_zero: whether the axis starts at 0; else a little below the smallest value.
    """
    values = [s.value for s in steps]
    span = max(values) - min(values)
    start = 0.0 if from_zero else min(values) - 0.35 * (span or 1.0)
    end = max(values) + (0.0 if from_zero else 0.05 * (span or 1.0))
    scale = 100 / ((end - start) or 1.0)
    rows = []
    for number, step in enumerate(steps):
        before = steps[number - 1].value if number else start
        whole = number in (0, len(steps) - 1)
        low, high = (start, step.value) if whole else sorted((before, step.value))
        change, tone = "", "total" if number else ""
        if 0 < number < len(steps) - 1:
            delta = step.value - before
            better = (delta > 0) == higher_is_better
            tone = "" if delta == 0 else "good" if better else "bad"
            change = f'<small class="{tone}">{_change(before, step.value, from_zero)}</small> '
        rows.append(
            f'<div class="row"><span>{escape(step.name)}</span><span class="track">'
            f'<i class="{tone}" style="left:{(low - start) * scale:.2f}%;'
            f'width:{(high - low) * scale:.2f}%"></i></span>'
            f"<span>{change}{escape(step.text)}</span></div>"
        )
    return f"<div><h3>{escape(title)}</h3>{''.join(rows)}</div>"


def _change(before: float, after: float, relative: bool) -> str:
    """How a step changed a cost (in per cent) or a quality (as it is printed)."""
    if relative:
        return f"{(after / before - 1) * 100:+.0f}%" if before else ""
    return f"{after - before:+.2f}"


def diverging(name: str, delta: float, largest: float, text: str, note: str = "") -> str:
    """A row whose bar leaves the middle to the right (better) or left (worse)."""
    width = abs(delta) / (largest or 1.0) * 50
    left = 50.0 if delta >= 0 else 50 - width
    tone = "good" if delta > 0 else "bad" if delta < 0 else ""
    bar = f'<i class="{tone}" style="left:{left:.2f}%;width:{width:.2f}%"></i>' if delta else ""
    return (
        f'<div class="row class"><span>{escape(name)}</span><span class="track">'
        f'<u style="left:50%"></u>{bar}</span>'
        f"<span><small>{escape(note)}</small> "
        f'<span class="{tone}">{escape(text)}</span></span></div>'
    )


def bar(name: str, value: float, largest: float, text: str) -> str:
    """A row with a bar from zero."""
    width = max(0.0, value) / (largest or 1.0) * 100
    return (
        f'<div class="row"><span>{escape(name)}</span><span class="track">'
        f'<i style="left:0;width:{width:.2f}%"></i></span><span>{escape(text)}</span></div>'
    )
