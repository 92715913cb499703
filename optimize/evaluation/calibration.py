"""Calibration: whether answers are right as often as their confidence says."""

from typing import Any

import torch
from torch import Tensor

BINS = 15


def confidence(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The confidence of every answer, float64 `[M]`, and whether it is right, bool `[M]`.

    Args:
        logits: `[N, classes]`.
        targets: int64 `[N]`; in multi-label data float `[N, classes]`, where each label of each
            sample counts as one answer with its own confidence.
    """
    if targets.is_floating_point():
        probability = logits.double().sigmoid().flatten()
        return (
            torch.maximum(probability, 1 - probability),
            (probability > 0.5) == targets.flatten().bool(),
        )
    likely, answer = probabilities(logits).max(1)
    return likely, answer == targets


def reliability(sure: Tensor, right: Tensor, bins: int = BINS) -> dict[str, Any]:
    """A reliability diagram over equal bins of confidence, and the expected calibration error
    (Guo et al. 2017).

    Args:
        sure, right: as `confidence` returns them.

    Returns:
        `ece`, the mean distance of confidence and accuracy; `bins`, each with `samples` and, if
        there are any, their mean `confidence` and their `accuracy`.
    """
    place = (sure * bins).long().clamp(max=bins - 1)
    error = 0.0
    rows: list[dict[str, float]] = []
    for number in range(bins):
        inside = place == number
        if not inside.any():
            rows.append({"samples": 0})
            continue
        said, found = float(sure[inside].mean()), float(right[inside].double().mean())
        error += abs(said - found) * float(inside.double().mean())
        rows.append({"samples": int(inside.sum()), "confidence": said, "accuracy": found})
    return {"ece": error, "bins": rows}


def probabilities(answers: Tensor) -> Tensor:
    """Float64 `[N, classes]` of logits; rows that are probabilities already stay as they are."""
    values = answers.double()
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        return values
    return values.softmax(1)
