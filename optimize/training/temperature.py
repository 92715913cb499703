"""Temperature scaling (Guo et al. 2017)."""

import torch
from torch import Tensor

from optimize.training.finetune import against_labels


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
