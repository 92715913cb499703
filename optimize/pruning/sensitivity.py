"""Layer sensitivity: the accuracy lost by pruning each layer alone."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data.dataset import Split
from optimize.evaluation.accuracy import predict
from optimize.pruning.graph import coupled
from optimize.pruning.importance import channel_importance
from optimize.pruning.removal import Plan, without


def accuracy_on(split: Split, samples: int) -> Callable[[nn.Module], float]:
    """A function from a model to its top-1 accuracy on `samples` evenly spaced samples."""
    chosen = torch.linspace(0, len(split) - 1, min(samples, len(split))).long()
    inputs, targets = split.inputs[chosen], split.targets[chosen]

    def accuracy(model: nn.Module) -> float:
        answers = predict(model, inputs, title="sensitivity")
        return (answers.argmax(1) == targets).float().mean().item()

    return accuracy


def pruning_table(
    model: nn.Module,
    example: Tensor,
    ratios: Iterable[float],
    accuracy: Callable[[nn.Module], float],
    *,
    keep: Iterable[str] = (),
) -> list[dict[str, Any]]:
    """Accuracy lost by pruning one layer alone, without recovery (Li et al. 2017, figure 2).

    Args:
        model: left as it is.
        example: an input `[1, ...]`.
        ratios: shares of the layer's channels to remove, those of least magnitude first.
        accuracy: from a model to its accuracy, for instance from `accuracy_on`.
        keep: names of layers to leave out.

    Returns:
        A row for every layer and ratio: `{"layer", "channels", "ratio", "drop"}`; layers that
        share their channels are one row, under one of their names. Largest drop first.

    Raises:
        ModelError: the model cannot be traced.
        OptionError: `keep` names a layer that is not there.
    """
    original = copy.deepcopy(model).eval()
    baseline, shares = accuracy(original), list(ratios)
    order = [name for name, _ in original.named_modules()]
    rows: list[dict[str, Any]] = []
    for group in sorted(coupled(original, example, keep), key=lambda g: order.index(g.name)):
        scores = channel_importance(group, "magnitude")
        if scores is None:
            continue
        for ratio in shares:
            count = min(group.width - 1, round(ratio * group.width))
            plan: Plan = {group.name: scores.argsort()[:count].tolist()} if count > 0 else {}
            trial, done = without(original, example, plan)
            if done:
                drop = baseline - accuracy(trial)
                row = {"layer": group.name, "channels": group.width, "ratio": ratio, "drop": drop}
                rows.append(row)
    worst = {
        name: max(r["drop"] for r in rows if r["layer"] == name)
        for name in {r["layer"] for r in rows}
    }
    return sorted(rows, key=lambda row: (-worst[row["layer"]], row["layer"], row["ratio"]))
