"""Judges of numbers: regression, and a user's own function."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from optimize.evaluation.judge import Judge, Measure, Pairs, flat, near
from optimize.evaluation.metrics import Metric

R2 = Metric(
    "r2", "R²", unit="", change_unit="", scale=1.0, digits=4, least=None, most=1.0, counted=False
)
MAE = Metric(
    "mae", "Mean absolute error", unit="", change_unit="", higher_is_better=False, scale=1.0,
    digits=4, most=None, counted=False,
)  # fmt: skip


class Regression(Judge):
    """Numbers: R² (the mean of its columns') and the mean absolute error."""

    gates = (R2, MAE)

    def measure(self, pairs: Pairs) -> Measure:
        answers, targets = flat(pairs)
        error = targets - answers

        def values(index: Tensor) -> dict[str, float]:
            wanted, left = targets[index], error[index]
            total = (wanted - wanted.mean(0)).square().sum(0)
            some = total > 0
            r2 = 1 - left.square().sum(0)[some] / total[some]
            return {
                R2.name: float(r2.mean()) if some.any() else 0.0,
                MAE.name: float(left.abs().mean()),
            }

        return values

    def agreement(self, pairs: Pairs) -> float:
        return near(pairs)

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        if self.metric is R2:
            return 0.0  # of the mean
        columns = torch.cat([t.double().reshape(len(t), -1) for t in targets], 1)
        return float((columns - columns.median(0).values).abs().mean())


class Function(Judge):
    """A user's function of answers and targets, to one number or one for every sample.

    Args:
        function: of two tensors `[N, ...]`, or of two lists of them if there are several targets.
        metric: its name and direction.
    """

    gates = ()

    def __init__(self, function: Callable[[Any, Any], Any], metric: Metric) -> None:
        self.function, self.metric = function, metric

    def measure(self, pairs: Pairs) -> Measure:
        def values(index: Tensor) -> dict[str, float]:
            chosen = [(answer[index], target[index]) for answer, target in pairs]
            given: Any = [list(side) for side in zip(*chosen, strict=True)]
            answers, targets = given if len(pairs) > 1 else (given[0][0], given[1][0])
            found = torch.as_tensor(self.function(answers, targets)).double()
            return {self.metric.name: float(found.mean())}

        return values

    def agreement(self, pairs: Pairs) -> float:
        return near(pairs)
