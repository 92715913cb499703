"""The gate: what is lost, what is agreed on, and the floor that both models stand on."""

import re

import pytest

from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.recipe.schema import Budget
from optimize.report import report
from tests.unit.optimize.report import reports

WORD_ERRORS = Metric("wer", "Word error rate", higher_is_better=False, most=None)


def rows(metric: Metric, before: float, after: float) -> list[dict[str, object]]:
    shared = {"samples": 1000, "agreement": 1.0}
    return [{metric.name: value, **shared} for value in (before, after)]


@pytest.mark.parametrize(
    ("metric", "before", "after", "floor", "reason"),
    [
        (ACCURACY, 0.9, 0.895, 0.8, None),
        (ACCURACY, 0.8, 0.8, 0.8, None),
        (ACCURACY, 0.79, 0.8, 0.8, "accuracy of the original is 0.7900, .* at least 0.8000"),
        (ACCURACY, 0.805, 0.799, 0.8, "accuracy of the final model is 0.7990"),
        (WORD_ERRORS, 0.1, 0.105, 0.2, None),
        (WORD_ERRORS, 0.25, 0.19, 0.2, "wer of the original is 0.2500, .* at most 0.2000"),
        (ACCURACY, 0.25, 0.25, None, None),
    ],
)
def test_the_floor_holds_for_both(
    metric: Metric, before: float, after: float, floor: float | None, reason: str | None
) -> None:
    found = report.gate(Budget(floor=floor), metric, *rows(metric, before, after))
    assert found["passed"] == (reason is None) and found["floor"] == floor
    if reason is not None:
        assert re.search(reason, found["reason"])


def test_warnings_are_printed() -> None:
    found = reports.report(warnings=["not better than chance"])
    assert report.summary(found)[-1] == "warning: not better than chance"
