"""The layout of the plots: what the labels cover."""

import random

import pytest

from optimize.report.labels import Label
from optimize.report.scatter import Point, Scatter, scatter


def crowded(seed: int, higher_is_better: bool, stages: int) -> Scatter:
    """An original, some stages and a final model within a point of the budget, on either side."""
    draw = random.Random(seed)
    kinds = [("original", "original"), *((f"quantize-{i}", "stage") for i in range(stages))]
    points = [
        Point(
            name, 10 * 0.6**place * draw.uniform(0.8, 1.2), 92 + draw.uniform(-1, 1), kind, "", ""
        )
        for place, (name, kind) in enumerate([*kinds, ("final", "final")])
    ]
    trial = Point("trial 0", 0.5, 70 if higher_is_better else 110, "trial", "", "")
    return scatter(
        [*points, trial],
        title="",
        x_label="",
        y_label="",
        higher_is_better=higher_is_better,
        budget=92.0,
    )


def overlap(one: Label, other: Label) -> bool:
    """Whether two labels lie on one another; letters of 12px are 9 above the base line."""
    beside = one.right <= other.x or other.right <= one.x
    return not beside and abs(one.base - other.base) < 9


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("stages", [2, 6])
@pytest.mark.parametrize("seed", range(10))
def test_labels_cover_neither_points_nor_the_budget_nor_each_other(
    seed: int, stages: int, higher_is_better: bool
) -> None:
    plot = crowded(seed, higher_is_better, stages)
    assert plot.budget is not None and len(plot.names) == stages + 2
    for number, name in enumerate(plot.names):
        assert plot.frame.left <= name.x and name.right <= plot.frame.right, name
        assert plot.frame.top <= name.base <= plot.frame.bottom, name
        assert not name.base - 9 < plot.budget.at < name.base + 1, name
        assert not any(overlap(name, other) for other in plot.names[:number]), name
        for mark in plot.marks:
            inside = name.x < mark.x < name.right and name.base - 9 < mark.y < name.base
            assert not inside, (name, mark)


def test_the_budgets_label_stands_outside_the_plot() -> None:
    points = [
        Point("original", 10, 93, "original", "", ""),
        Point("final", 1, 80, "final", "", ""),
    ]
    for budget in (92.5, 93.0, 93.5):
        plot = scatter(points, title="", x_label="", y_label="", budget=budget)
        assert plot.budget is not None
        label = plot.budget.label
        assert max(mark.x + mark.radius for mark in plot.marks) < plot.frame.right < label.x
        assert label.right <= plot.frame.width and abs(label.middle - plot.budget.at) < 1


def test_the_numbers_of_the_axis_have_the_room_they_need() -> None:
    points = [Point("one", 1, 85.0, "original", "", ""), Point("two", 2, 85.01, "final", "", "")]
    plot = scatter(points, title="", x_label="", y_label="")
    for tick in plot.y_ticks:
        assert Label(tick.text, 0, 0).width + 6 <= plot.frame.left, tick.text
