"""The layout of the plots: what the labels cover."""

import random

import pytest

from optimize.report import charts
from optimize.report.charts import Label, Point, Scatter


def crowded(seed: int, higher_is_better: bool) -> Scatter:
    """An original, two stages and a final model within a point of the budget, on either side."""
    draw = random.Random(seed)
    kinds = [("original", "original"), ("distill", "stage"), ("prune", "stage"), ("final", "final")]
    points = [
        Point(name, cost * draw.uniform(0.8, 1.2), 92 + draw.uniform(-1, 1), kind, "", "")
        for (name, kind), cost in zip(kinds, (10, 3, 1, 0.3), strict=True)
    ]
    trial = Point("trial 0", 0.5, 70 if higher_is_better else 110, "trial", "", "")
    return charts.scatter(
        [*points, trial],
        title="",
        x_label="",
        y_label="",
        higher_is_better=higher_is_better,
        budget=92.0,
    )


def overlap(one: Label, other: Label) -> bool:
    """Whether two labels lie on one another; letters of 12px are 9 above the base line."""
    beside = one.right <= other.left or other.right <= one.left
    return not beside and abs(one.base - other.base) < 9


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_labels_leave_the_budget_line_and_each_other_readable(
    seed: int, higher_is_better: bool
) -> None:
    plot = crowded(seed, higher_is_better)
    assert plot.budget is not None and len(plot.names) == 4
    for name in plot.names:
        assert not name.base - 9 < plot.budget.at < name.base + 1, name
        assert not overlap(name, plot.budget.label), name
    for number, name in enumerate(plot.names):
        assert not any(overlap(name, other) for other in plot.names[:number]), name


def test_the_budgets_label_covers_no_point() -> None:
    points = [
        Point("original", 10, 93, "original", "", ""),
        Point("final", 1, 80, "final", "", ""),
    ]
    for budget in (92.5, 93.0, 93.5):
        plot = charts.scatter(points, title="", x_label="", y_label="", budget=budget)
        assert plot.budget is not None
        label, mark = plot.budget.label, plot.marks[0]
        assert mark.kind == "original"
        beside = mark.x + mark.radius < label.left or mark.x - mark.radius > label.right
        above = mark.y + mark.radius < label.base - 9 or mark.y - mark.radius > label.base
        assert beside or above, budget
