"""Names in a plot: where each covers no point, no line and no other name."""

import itertools
from dataclasses import dataclass

LETTER = 6.6  # how wide a letter is on average, in units of the viewBox


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
        return LETTER * len(self.text)


@dataclass(frozen=True)
class Budget:
    """The line that the gate draws: its y in the viewBox, and its label."""

    at: float
    label: Label


def placed(
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


def along(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
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
