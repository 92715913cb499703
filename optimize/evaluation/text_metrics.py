"""Accuracy, macro F1, area under the ROC curve and calibration error, for one label or several."""

import torch
from torch import Tensor

from optimize.evaluation.accuracy import wilson

BINS = 15


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


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over equal bins (Guo et al. 2017).

    Args:
        logits: `[N, classes]`.
        targets: int64 `[N]`; in multi-label data float `[N, classes]`, where every label of
            every text counts with the confidence in its own answer.
    """
    if targets.is_floating_point():
        chance = logits.double().sigmoid().flatten()
        confidence, right = (
            torch.maximum(chance, 1 - chance),
            (chance > 0.5) == targets.flatten().bool(),
        )
    else:
        confidence, answer = logits.double().softmax(1).max(1)
        right = answer == targets
    place = (confidence * bins).long().clamp(max=bins - 1)
    error = 0.0
    for number in range(bins):
        inside = place == number
        if inside.any():
            gap = (confidence[inside].mean() - right[inside].double().mean()).abs()
            error += float(gap) * float(inside.double().mean())
    return error
