"""Temperature scaling and expected calibration error (Guo et al. 2017)."""

import torch
from torch import Tensor

from optimize.text.training import against_labels

BINS = 15


def probabilities(logits: Tensor, multi_label: bool = False) -> Tensor:
    """Softmax over the classes, or a sigmoid for each label."""
    return logits.sigmoid() if multi_label else logits.softmax(1)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the loss of `logits / temperature` on held-out data.

    Args:
        logits: `[N, classes]`.
        targets: int64 `[N]`, or float `[N, classes]` for multi-label data.

    Returns:
        A positive number: above 1 where the model is too sure of itself.
    """
    logits = logits.detach().double()
    targets = targets.double() if targets.is_floating_point() else targets
    low, high = -4.0, 4.0  # log temperature; the loss is convex in the inverse temperature
    ratio = (5**0.5 - 1) / 2

    def loss(log_temperature: float) -> float:
        scale = float(torch.tensor(log_temperature).exp())
        return float(against_labels(logits / scale, targets))

    for _ in range(60):  # golden-section search
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy over equal bins of confidence.

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
