"""How the answers of a model of tensors are judged: a metric, its interval, chance, agreement.

A judge sees answers in pairs with their targets, or with the original's answers for `parity`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optimize.errors import DataError
from optimize.evaluation import accuracy, bootstrap, chance, text_metrics
from optimize.evaluation.metrics import ACCURACY, Metric

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Answers and targets `[N, ...]`, a pair for every target."""
Measure = Callable[[Tensor], dict[str, float]]
"""Values by name on the samples at some positions, int64 `[M]`."""

R2 = Metric(
    "r2", "R²", unit="", change_unit="", scale=1.0, digits=4, least=None, most=1.0, counted=False
)
MAE = Metric(
    "mae", "Mean absolute error", unit="", change_unit="", higher_is_better=False, scale=1.0,
    digits=4, most=None, counted=False,
)  # fmt: skip
MAP = Metric("map", "Mean average precision", counted=False)
MACRO_F1 = Metric("macro_f1", "Macro F1", counted=False)
MIOU = Metric("miou", "Mean intersection over union", counted=False)
COSINE = Metric(
    "cosine", "Cosine with the original's answer", unit="", change_unit="", scale=1.0, digits=5,
    least=-1.0001, most=1.0001, counted=False,
)  # fmt: skip
MAX_ERROR = Metric(
    "max_error", "Largest error against the original", unit="", change_unit="",
    higher_is_better=False, scale=1.0, digits=5, most=None, counted=False,
)  # fmt: skip

_NEAR = 0.1  # of an output's standard deviation: answers so near agree
_SAME = 0.99  # the cosine of answers that agree


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


def _flat(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Answers and targets as float64 `[N, values]`, all pairs side by side."""
    columns = []
    for answer, target in pairs:
        if answer.numel() != target.numel():
            raise DataError(
                f"the model's output {list(answer.shape)} is not of the shape of its target "
                f"{list(target.shape)}"
            )
        columns.append([t.double().reshape(len(t), -1) for t in (answer, target)])
    return torch.cat([a for a, _ in columns], 1), torch.cat([t for _, t in columns], 1)


def _near(pairs: Pairs) -> float:
    answers, reference = _flat(pairs)
    spread = reference.std(0, correction=0)
    limit = _NEAR * spread + 1e-5 * reference.abs().amax(0)
    return float(((answers - reference).abs() <= limit).all(1).double().mean())


class Regression(Judge):
    """Numbers: R² (the mean of its columns') and the mean absolute error."""

    gates = (R2, MAE)

    def measure(self, pairs: Pairs) -> Measure:
        answers, targets = _flat(pairs)
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
        return _near(pairs)

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        if self.metric is R2:
            return 0.0  # of the mean
        columns = torch.cat([t.double().reshape(len(t), -1) for t in targets], 1)
        return float((columns - columns.median(0).values).abs().mean())


def _classes(answer: Tensor) -> Tensor:
    """The class of every place: from logits `[N, C, ...]`, one logit, or classes themselves."""
    if not answer.is_floating_point():
        return answer.long()
    if answer.dim() > 1 and answer.shape[1] > 1:
        return answer.argmax(1)
    return (answer > 0).long()


class Classification(Judge):
    """One class of several: accuracy, and macro F1."""

    gates = (ACCURACY, MACRO_F1)
    loss = "cross_entropy"

    def _labels(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        ((answer, target),) = pairs
        found = _classes(answer).reshape(len(answer), -1)
        if found.shape[1] != 1 or target.numel() != len(target):
            raise DataError(
                f"classification takes logits [N, classes] and one class a row, not "
                f"{list(answer.shape)} and {list(target.shape)}"
            )
        return found[:, 0], target.long().flatten()

    def measure(self, pairs: Pairs) -> Measure:
        found, wanted = self._labels(pairs)
        classes = int(torch.maximum(found.max(), wanted.max())) + 1
        answers, targets = (
            torch.nn.functional.one_hot(labels, classes).bool() for labels in (found, wanted)
        )

        def values(index: Tensor) -> dict[str, float]:
            return {
                ACCURACY.name: float((found[index] == wanted[index]).double().mean()),
                MACRO_F1.name: text_metrics.macro_f1(answers[index], targets[index]),
            }

        return values

    def score(self, pairs: Pairs) -> dict[str, Any]:
        scored = super().score(pairs)
        if self.metric is ACCURACY:  # Wilson's, which is right where nothing is wrong
            right = round(scored[ACCURACY.name] * scored["samples"])
            scored["ci95"] = list(accuracy.wilson(right, scored["samples"]))
        return scored

    def agreement(self, pairs: Pairs) -> float:
        ((answer, reference),) = pairs
        return float((_classes(answer) == _classes(reference)).double().mean())

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        labels = targets[0].long().flatten()
        if self.metric is ACCURACY:
            return chance.majority(labels)
        return chance.macro_f1(torch.nn.functional.one_hot(labels).bool())


class MultiLabel(Judge):
    """Any number of labels: mean average precision, and macro F1 at a probability of a half."""

    gates = (MAP, MACRO_F1)
    loss = "binary_cross_entropy"

    def measure(self, pairs: Pairs) -> Measure:
        ((answer, target),) = pairs
        if answer.shape != target.shape or answer.dim() != 2:
            raise DataError(
                f"multi_label takes logits and targets [N, labels], not {list(answer.shape)} and "
                f"{list(target.shape)}"
            )
        wanted = target > 0.5

        def values(index: Tensor) -> dict[str, float]:
            return {
                MAP.name: average_precision(answer[index], wanted[index]),
                MACRO_F1.name: text_metrics.macro_f1(answer[index] > 0, wanted[index]),
            }

        return values

    def agreement(self, pairs: Pairs) -> float:
        ((answer, reference),) = pairs
        return float(((answer > 0) == (reference > 0)).all(1).double().mean())

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        # Scores without meaning reach the labels' own shares, as guessing does in F1.
        return chance.macro_f1(targets[0] > 0.5)


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """The mean over labels of the area under precision against recall, as a step function; of
    labels that occur.

    Args:
        scores: float `[N, labels]`, larger for more likely.
        targets: bool `[N, labels]`.
    """
    order = scores.argsort(dim=0, descending=True)
    hits = targets.gather(0, order).double()
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1, dtype=torch.float64)[:, None]
    count = hits.sum(0)
    occurs = count > 0
    if not occurs.any():
        return 0.0
    return float(((precision * hits).sum(0)[occurs] / count[occurs]).mean())


class Segmentation(Judge):
    """A class for every place: mean intersection over union, and the share of right places."""

    gates = (MIOU,)
    loss = "cross_entropy"

    def measure(self, pairs: Pairs) -> Measure:
        ((answer, target),) = pairs
        found, wanted = _classes(answer), target.long()
        if found.numel() != wanted.numel():
            raise DataError(
                f"segmentation takes logits [N, classes, ...] and a class for every place, not "
                f"{list(answer.shape)} and {list(target.shape)}"
            )
        found, wanted = found.flatten(1), wanted.flatten(1)
        classes = range(int(torch.maximum(found.max(), wanted.max())) + 1)
        both = torch.stack([((found == c) & (wanted == c)).sum(1) for c in classes], 1).double()
        either = torch.stack([((found == c) | (wanted == c)).sum(1) for c in classes], 1).double()
        right = (found == wanted).double().mean(1)

        def values(index: Tensor) -> dict[str, float]:
            inside, union = both[index].sum(0), either[index].sum(0)
            return {
                MIOU.name: float((inside / union)[union > 0].mean()),
                "pixel_accuracy": float(right[index].mean()),
            }

        return values

    def agreement(self, pairs: Pairs) -> float:
        ((answer, reference),) = pairs
        return float((_classes(answer) == _classes(reference)).double().mean())

    def chance(self, targets: Sequence[Tensor]) -> float | None:
        counts = targets[0].long().flatten().bincount()
        return float(counts.max() / counts.sum() / (counts > 0).sum())


class Parity(Judge):
    """No targets: how near answers are to the original's, by their cosine, row by row and the mean
    of all outputs, and by the largest error over an output's root mean square.

    Of an output with one number a row the cosine is that of all rows together.
    """

    gates = (COSINE, MAX_ERROR)

    def measure(self, pairs: Pairs) -> Measure:
        sides, errors = [], []
        for answer, reference in pairs:
            found, wanted = (t.double().reshape(len(t), -1) for t in (answer, reference))
            if found.shape != wanted.shape:
                raise DataError(
                    f"an output is {list(answer.shape)}, the original's {list(reference.shape)}"
                )
            sides.append((found, wanted))
            usual = wanted.square().mean().sqrt().clamp(min=1e-12)
            errors.append((found - wanted).abs().amax(1) / usual)
        error = torch.stack(errors).amax(0)

        def values(index: Tensor) -> dict[str, float]:
            alike = [float(cosines(a[index], b[index]).mean()) for a, b in sides]
            return {
                COSINE.name: sum(alike) / len(alike),
                MAX_ERROR.name: float(error[index].max()),
            }

        return values

    def agreement(self, pairs: Pairs) -> float:
        shares = []
        for answer, reference in pairs:
            found, wanted = (t.double().reshape(len(t), -1) for t in (answer, reference))
            if found.shape[1] == 1:
                limit = _NEAR * wanted.std(correction=0) + 1e-5 * wanted.abs().max()
                shares.append(((found - wanted).abs() <= limit)[:, 0])
            else:
                shares.append(cosines(found, wanted) >= _SAME)
        return float(torch.stack(shares).all(0).double().mean())


def cosines(found: Tensor, wanted: Tensor) -> Tensor:
    """The cosine of every row of two `[N, values]`; of all rows together where a row has one value.
    Rows of zeros are alike."""
    if found.shape[1] == 1:
        found, wanted = found.T, wanted.T
    norms = found.norm(dim=1) * wanted.norm(dim=1)
    alike = (found * wanted).sum(1) / norms.clamp(min=1e-300)
    return torch.where(norms > 0, alike, (found == wanted).all(1).double())


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
        return _near(pairs)


JUDGES: dict[str, type[Judge]] = {
    "regression": Regression,
    "classification": Classification,
    "multi_label": MultiLabel,
    "segmentation": Segmentation,
    "parity": Parity,
}
