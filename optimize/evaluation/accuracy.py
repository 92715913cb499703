"""Accuracy on held-out data, with its uncertainty, and agreement with another model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optimize.data.dataset import Split
from optimize.utils.bars import bar


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy over `samples`, with a 95% interval, and per class."""

    value: float
    samples: int
    ci95: tuple[float, float]
    per_class: list[float | None]


def wilson(successes: int, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); (0, 1) without samples."""
    if samples == 0:
        return 0.0, 1.0
    p = successes / samples
    centre = p + z * z / (2 * samples)
    half = z * math.sqrt(p * (1 - p) / samples + z * z / (4 * samples * samples))
    scale = 1 + z * z / samples
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def predict(
    model: nn.Module, inputs: Tensor, batch_size: int = 250, title: str = "evaluating"
) -> Tensor:
    """Logits float32 `[N, classes]` for uint8 inputs `[N, C, H, W]`."""
    model.eval()
    starts = range(0, len(inputs), batch_size)
    device = next(model.parameters(), inputs).device
    with torch.inference_mode():
        logits = [
            model(inputs[start : start + batch_size].to(device)).float().cpu()
            for start in bar(starts, title=title, unit="batch")
        ]
    return torch.cat(logits).clone()


def accuracy(logits: Tensor, targets: Tensor) -> Accuracy:
    """Top-1 accuracy of logits `[N, classes]` against int64 targets `[N]`."""
    right = logits.argmax(1) == targets
    per_class: list[float | None] = []
    for label in range(logits.shape[1]):
        of_class = targets == label
        per_class.append(right[of_class].float().mean().item() if of_class.any() else None)
    return Accuracy(
        value=right.float().mean().item(),
        samples=len(targets),
        ci95=wilson(int(right.sum()), len(targets)),
        per_class=per_class,
    )


def evaluate(model: nn.Module, split: Split, title: str = "evaluating") -> Accuracy:
    """Top-1 accuracy of `model` on `split`."""
    return accuracy(predict(model, split.inputs, title=title), split.targets)


def agreement(logits: Tensor, reference: Tensor) -> float:
    """Share of samples on which two models predict the same class."""
    return (logits.argmax(1) == reference.argmax(1)).float().mean().item()
