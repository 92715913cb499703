"""What a figure of quality means: its name, unit and direction, and how it is printed.

A task says which metric it measures; a report carries it. Whoever gates, draws or prints asks the
metric and knows none by name.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Attributes:
        name: the key of its value in the rows of a report.
        title: its name for people.
        unit: what a printed value ends in.
        change_unit: what a printed difference of two values ends in.
        higher_is_better: its direction.
        scale: what a value is multiplied by to be printed: 100 for shares in percent.
        digits: decimals of a printed value.
        least, most: what a value can be; None where there is no bound.
        counted: whether values are counts over the samples, so that two models which differ by
            less than half a sample cannot be told apart.
    """

    name: str
    title: str
    unit: str = "%"
    change_unit: str = "points"
    higher_is_better: bool = True
    scale: float = 100.0
    digits: int = 2
    least: float | None = 0.0
    most: float | None = 1.0
    counted: bool = True

    @classmethod
    def of(cls, report: dict[str, Any]) -> "Metric":
        """The metric that a report was measured in."""
        return cls(**report["metric"])

    def to_json(self) -> dict[str, Any]:
        """Plain values that `of` reads back."""
        return dataclasses.asdict(self)

    def lost(self, before: float, after: float) -> float:
        """How much worse `after` is: positive where something was lost."""
        return before - after if self.higher_is_better else after - before

    def after_losing(self, before: float, lost: float) -> float:
        """The value that is worse than `before` by `lost`."""
        return before - lost if self.higher_is_better else before + lost

    def tolerance(self, samples: int) -> float:
        """The difference below which two models on the same samples cannot be told apart."""
        return 0.5 / max(1, samples) if self.counted else 0.0

    def holds(self, value: Any) -> bool:
        """Whether a value can be one of this metric."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        return math.isfinite(value) and low <= value <= high

    def text(self, value: float) -> str:
        """A value for people: `92.22%`, `0.71 degrees`."""
        gap = "" if self.unit in ("", "%") else " "
        return f"{value * self.scale:.{self.digits}f}{gap}{self.unit}"

    def change(self, difference: float) -> str:
        """A difference of two values for people: `-0.66 points`."""
        return f"{difference * self.scale:+.{self.digits}f} {self.change_unit}".rstrip()


ACCURACY = Metric("accuracy", "Accuracy")
