"""Accuracy, macro F1 and area under the ROC curve, for one label a text or several."""

import torch
from torch import Tensor

from optimize.evaluate import wilson


def said(logits: Tensor, multi_label: bool) -> Tensor:
    """Bool `[N, classes]`: the labels a model gives, the largest or those over one half."""
    if multi_label:
        return logits > 0
    return torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1]).bool()


def truth(targets: Tensor, classes: int) -> Tensor:
    """Bool `[N, classes]` from int64 `[N]` or float `[N, classes]`."""
    if targets.is_floating_point():
        return targets > 0.5
    return torch.nn.functional.one_hot(targets, classes).bool()


def macro_f1(answers: Tensor, right: Tensor) -> float:
    """Mean F1 over the labels that the texts or the answers hold; bool `[N, classes]` both."""
    hits = (answers & right).sum(0).double()
    total = answers.sum(0).double() + right.sum(0)
    held = total > 0
    return float((2 * hits[held] / total[held]).mean()) if held.any() else 0.0


def auroc(scores: Tensor, right: Tensor) -> float:
    """Mean area under the ROC curve, one label against the rest (Mann-Whitney U, ties halved).

    Args:
        scores: float `[N, classes]`, larger for more likely.
        right: bool `[N, classes]`.

    Returns:
        The mean over the labels that some texts have and others have not; 0.5 without any.
    """
    areas = []
    for column in range(scores.shape[1]):
        chosen = right[:, column]
        positive, negative = int(chosen.sum()), int((~chosen).sum())
        if not positive or not negative:
            continue
        _, inverse, counts = (
            scores[:, column].double().unique(return_inverse=True, return_counts=True)
        )
        ends = counts.cumsum(0).double()
        ranks = (ends - (counts.double() - 1) / 2)[inverse]
        area = (ranks[chosen].sum() - positive * (positive + 1) / 2) / (positive * negative)
        areas.append(float(area))
    return sum(areas) / len(areas) if areas else 0.5


def accuracy(answers: Tensor, right: Tensor) -> dict[str, object]:
    """Share of texts with exactly the right labels, with its 95% interval (Wilson)."""
    correct = (answers == right).all(1)
    return {
        "accuracy": float(correct.double().mean()),
        "samples": len(correct),
        "ci95": list(wilson(int(correct.sum()), len(correct))),
    }
