"""What a model that does not look at its input reaches, and whether another one does better."""

import math
from typing import Any

import torch
from torch import Tensor

from optimize.evaluation.metrics import Metric

_Z = 1.959964


def majority(targets: Tensor) -> float:
    """The share of the most frequent label, or set of labels.

    Args:
        targets: int64 `[N]`, or in multi-label data `[N, classes]`, not empty.
    """
    counts = torch.unique(targets, dim=0, return_counts=True)[1]
    return float(counts.max()) / len(targets)


def macro_f1(targets: Tensor) -> float:
    """What guessing each label as often as it occurs stays below, 97.5 times in a hundred.

    Args:
        targets: bool `[N, classes]`.
    """
    shares = targets.double().mean(0)
    expected = shares[shares > 0].mean().item()
    return min(1.0, expected + _Z * math.sqrt(expected * (1 - expected) / len(targets)))


def auroc(targets: Tensor) -> float:
    """What scores without meaning stay below, 97.5 times in a hundred (Mann-Whitney U under the
    null hypothesis).

    Args:
        targets: bool `[N, classes]`.
    """
    deviations = []
    for positive in targets.sum(0).tolist():
        negative = len(targets) - positive
        if positive and negative:
            deviations.append(math.sqrt((len(targets) + 1) / (12 * positive * negative)))
    return min(1.0, 0.5 + _Z * sum(deviations) / len(deviations)) if deviations else 0.5


def warning(metric: Metric, row: dict[str, Any], chance: float | None) -> str | None:
    """A sentence if a model is not significantly better than chance; None if it is, or if chance
    is not known.

    Args:
        row: a row of the report, with the metric's value, `samples` and `ci95`.
        chance: what a model that does not look at its input reaches.
    """
    if chance is None:
        return None
    value = row[metric.name]
    low, high = row["ci95"]
    worst = low if metric.higher_is_better else high
    if not low <= value <= high:  # the interval of another metric
        worst = value
    if metric.lost(chance, worst) < 0:
        return None
    return (
        f"the original is not better than chance: its {metric.name} is {metric.text(value)} on "
        f"{row['samples']} samples, and {metric.text(chance)} needs no look at the input. The gate "
        "says nothing then: check the checkpoint, the order of the labels and the preprocessing"
    )
