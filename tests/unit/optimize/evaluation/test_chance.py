"""What a model that does not look at its input reaches, and who does better."""

import pytest
import torch

from optimize.evaluation import chance, text_metrics
from optimize.evaluation.accuracy import wilson
from optimize.evaluation.metrics import ACCURACY, Metric

WORD_ERRORS = Metric("wer", "Word error rate", higher_is_better=False, most=None)


def test_the_majority_needs_no_look() -> None:
    assert chance.majority(torch.tensor([0, 1, 1, 2, 1])) == pytest.approx(0.6)
    several = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert chance.majority(several) == 0.5


def test_guesses_stay_below() -> None:
    """Real guesses: labels drawn as often as they occur, scores without meaning."""
    torch.manual_seed(0)
    targets = torch.nn.functional.one_hot(torch.arange(400) % 4 // 2 + torch.arange(400) % 2)
    below = {"f1": 0, "auroc": 0}
    for _ in range(200):
        guess = targets[torch.randperm(400)].bool()
        below["f1"] += text_metrics.macro_f1(guess, targets.bool()) < chance.macro_f1(targets)
        scores = torch.rand(400, targets.shape[1])
        below["auroc"] += text_metrics.auroc(scores, targets.bool()) < chance.auroc(targets)
    assert min(below.values()) >= 190


def row(metric: Metric, right: int, samples: int) -> dict[str, object]:
    share = right / samples
    return {metric.name: share, "samples": samples, "ci95": list(wilson(right, samples))}


@pytest.mark.parametrize(
    ("metric", "right", "level", "warned"),
    [
        (ACCURACY, 30, 0.25, True),  # .30, and its interval reaches down to .22
        (ACCURACY, 40, 0.25, False),
        (ACCURACY, 20, 0.25, True),
        (WORD_ERRORS, 99, 0.99, True),
        (WORD_ERRORS, 60, 1.0, False),
        (ACCURACY, 10, None, False),
    ],
)
def test_better_than_chance_means_significantly(
    metric: Metric, right: int, level: float | None, warned: bool
) -> None:
    said = chance.warning(metric, row(metric, right, 100), level)
    assert (said is not None) == warned
    if said is not None:
        assert metric.text(right / 100) in said and "not better than chance" in said


def test_an_interval_of_another_metric_is_not_used() -> None:
    """A text's interval is of its accuracy, whatever the metric is."""
    f1 = Metric("macro_f1", "Macro F1")
    measured = {"macro_f1": 0.47, "samples": 100, "ci95": [0.8, 0.95]}
    assert chance.warning(f1, measured, 0.55) is not None
    assert chance.warning(f1, {**measured, "macro_f1": 0.6}, 0.55) is None
