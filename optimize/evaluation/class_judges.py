"""Judges of classes: one of several, any number of labels, one for every place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optimize.errors import DataError
from optimize.evaluation import accuracy, chance, text_metrics
from optimize.evaluation.judge import Judge, Measure, Pairs
from optimize.evaluation.metrics import ACCURACY, Metric

MAP = Metric("map", "Mean average precision", counted=False)
MACRO_F1 = Metric("macro_f1", "Macro F1", counted=False)
MIOU = Metric("miou", "Mean intersection over union", counted=False)


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
