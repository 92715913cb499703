"""How differences of a metric are put into words."""

import pytest

from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.evaluation.number_judges import MAE, R2
from optimize.tasks.speech import WORD_ERROR_RATE


@pytest.mark.parametrize(
    ("metric", "difference", "words", "bare"),
    [
        (ACCURACY, -0.0066, "0.66 points lower", "0.66 lower"),
        (ACCURACY, 0.002, "0.20 points higher", "0.20 higher"),
        (ACCURACY, 0.00004, "unchanged", "unchanged"),
        (WORD_ERROR_RATE, 0.01, "1.00 points higher", "1.00 higher"),
        (R2, -0.0012, "0.0012 lower", "0.0012 lower"),
    ],
)
def test_a_difference_says_where_the_value_went(
    metric: Metric, difference: float, words: str, bare: str
) -> None:
    assert metric.change(difference) == words
    assert metric.change(difference, unit=False) == bare


@pytest.mark.parametrize(
    ("metric", "words"),
    [(ACCURACY, "1.00 points lower"), (WORD_ERROR_RATE, "1.00 points higher"),
     (MAE, "0.0100 higher")],
)  # fmt: skip
def test_a_loss_goes_the_worse_way(metric: Metric, words: str) -> None:
    assert metric.loss(0.01) == words
    assert metric.amount(-0.01) == words.rpartition(" ")[0]
