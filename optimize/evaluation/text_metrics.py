"""Accuracy, macro F1 and area under the ROC curve, for one label or several."""

import torch
from torch import Tensor

from optimize.evaluation.accuracy import wilson


def predicted_labels(logits: Tensor, multi_label: bool) -> Tensor:
    """Bool `[N, classes]`: the class of the largest logit, or all with a probability over 0.5."""
    if multi_label:
        return logits > 0
    return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).bool()


def target_labels(targets: Tensor, classes: int) -> Tensor:
    """Bool `[N, classes]` from int64 `[N]` or float `[N, classes]`."""
    if targets.is_floating_point():
        return targets > 0.5
    return torch.nn.functional.one_hot(targets, classes).bool()


def macro_f1(answers: Tensor, targets: Tensor) -> float:
    """Mean F1 over the labels that occur in answers or targets, both bool `[N, classes]`."""
    hits = (answers & targets).sum(0).double()
    total = answers.sum(0).double() + targets.sum(0)
    occurs = total > 0
    return float((2 * hits[occurs] / total[occurs]).mean()) if occurs.any() else 0.0


def auroc(scores: Tensor, targets: Tensor) -> float:
    """Mean area under the ROC curve, one label against the rest (Mann-Whitney U, ties halved).

    Args:
        scores: float `[N, classes]`, larger for more likely.
        targets: bool `[N, classes]`.

    Returns:
        The mean over the labels that some texts have and others lack; 0.5 if there are none.
    """
    areas = []
    for column in range(scores.shape[1]):
        has_label = targets[:, column]
        positive, negative = int(has_label.sum()), int((~has_label).sum())
        if not positive or not negative:
            continue
        _, inverse, counts = (
            scores[:, column].double().unique(return_inverse=True, return_counts=True)
        )
        ends = counts.cumsum(0).double()
        ranks = (ends - (counts.double() - 1) / 2)[inverse]
        area = (ranks[has_label].sum() - positive * (positive + 1) / 2) / (positive * negative)
        areas.append(float(area))
    return sum(areas) / len(areas) if areas else 0.5


def accuracy(answers: Tensor, targets: Tensor) -> dict[str, object]:
    """Share of texts whose labels are all correct, with its 95% interval (Wilson)."""
    correct = (answers == targets).all(1)
    return {
        "accuracy": float(correct.double().mean()),
        "samples": len(correct),
        "ci95": list(wilson(int(correct.sum()), len(correct))),
    }
