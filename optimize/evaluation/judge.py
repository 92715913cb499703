"""How the answers of a model of tensors are judged: a metric, its interval, chance, agreement.

A judge sees answers in pairs with their targets, or with the original's answers for `parity`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimize.errors import DataError
from optimize.evaluation import bootstrap
from optimize.evaluation.metrics import Metric

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Answers and targets `[N, ...]`, a pair for every target."""
Measure = Callable[[Tensor], dict[str, float]]
"""Values by name on the samples at some positions, int64 `[M]`."""

NEAR = 0.1  # of an output's standard deviation: answers so near agree


class Judge(ABC):
    """One way to judge.

    Attributes:
        gates: the metrics that a recipe may gate, the first by default.
        loss: the usual loss of a training for it.
        metric: the one that is gated.
    """

    gates: ClassVar[tuple[Metric, ...]]
    loss: ClassVar[str] = "mse"

    def __init__(self, gate: str | None = None) -> None:
        """Raises ValueError for a metric that it has not."""
        named = {metric.name: metric for metric in self.gates}
        if gate is not None and gate not in named:
            raise ValueError(f"gate is {gate!r}, not one of {', '.join(named)}")
        self.metric = self.gates[0] if gate is None else named[gate]

    @abstractmethod
    def measure(self, pairs: Pairs) -> Measure:
        """The values on some samples. Raises DataError where answers and targets do not fit."""

    @abstractmethod
    def agreement(self, pairs: Pairs) -> float:
        """Share of samples on which two models' answers agree."""

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        """The metric's value of a model that does not look at its input."""
        return None

    def score(self, pairs: Pairs) -> dict[str, Any]:
        """Values by name, `samples`, and the interval of the gated one."""
        measure, count = self.measure(pairs), len(pairs[0][0])
        values = measure(torch.arange(count))
        name = self.metric.name
        low, high = bootstrap.interval(lambda index: measure(index)[name], count)
        return {**values, "samples": count, "ci95": [low, high]}


def flat(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Answers and targets as float64 `[N, values]`, all pairs side by side. Raises DataError where
    they do not fit."""
    columns = []
    for answer, target in pairs:
        if answer.numel() != target.numel():
            raise DataError(
                f"the model's output {list(answer.shape)} is not of the shape of its target "
                f"{list(target.shape)}"
            )
        columns.append([t.double().reshape(len(t), -1) for t in (answer, target)])
    return torch.cat([a for a, _ in columns], 1), torch.cat([t for _, t in columns], 1)


def near(pairs: Pairs) -> float:
    """Share of samples whose answers are within a tenth of an output's standard deviation."""
    answers, reference = flat(pairs)
    spread = reference.std(0, correction=0)
    limit = NEAR * spread + 1e-5 * reference.abs().amax(0)
    return float(((answers - reference).abs() <= limit).all(1).double().mean())
