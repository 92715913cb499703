"""Metrics of model quality: name, unit, direction and how values are printed.

A task names its metric and the report carries it. Gates, charts and messages ask the `Metric`
object and know no metric by name.
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
        title: display name.
        unit: printed after a value.
        change_unit: printed after a difference of two values.
        higher_is_better: whether larger values are better.
        scale: factor for printing: 100 for shares in percent.
        digits: decimals of a printed value.
        least, most: range of a value; None for no bound.
        counted: whether values are counts divided by the number of samples, so that a difference
            of less than half a sample is no difference.
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
        """The metric of a report."""
        return cls(**report["metric"])

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `of` reads back."""
        return dataclasses.asdict(self)

    def lost(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`; positive for a loss."""
        return before - after if self.higher_is_better else after - before

    def after_losing(self, before: float, lost: float) -> float:
        """The value that is worse than `before` by `lost`."""
        return before - lost if self.higher_is_better else before + lost

    def tolerance(self, samples: int) -> float:
        """The largest difference between two models on the same samples that counts as none."""
        return 0.5 / max(1, samples) if self.counted else 0.0

    def holds(self, value: Any) -> bool:
        """Whether `value` is finite and in the metric's range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        return math.isfinite(value) and low <= value <= high

    def text(self, value: float) -> str:
        """A value as printed: `92.22%`, `0.71 degrees`."""
        gap = "" if self.unit in ("", "%") else " "
        return f"{value * self.scale:.{self.digits}f}{gap}{self.unit}"

    def amount(self, difference: float) -> str:
        """The size of a difference of two values as printed: `0.66 points`."""
        return f"{abs(difference) * self.scale:.{self.digits}f} {self.change_unit}".rstrip()

    def change(self, difference: float, unit: bool = True) -> str:
        """A difference of two values as printed: `0.66 points lower`; without its `unit` if asked.

        The words say where the value went: a sign beside "lost" or "gained" reads either way.
        """
        shown = round(difference * self.scale, self.digits)
        if not shown:
            return "unchanged"
        amount = self.amount(difference) if unit else f"{abs(shown):.{self.digits}f}"
        return f"{amount} {'higher' if shown > 0 else 'lower'}"

    def loss(self, lost: float, unit: bool = True) -> str:
        """A loss as `lost` gives it, printed like `change`: of an error rate it is `higher`."""
        return self.change(self.after_losing(0.0, lost), unit)


ACCURACY = Metric("accuracy", "Accuracy")
