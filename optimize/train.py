"""Supervised training of image classifiers on CPU: SGD, one-cycle, bf16 autocast where it pays."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from optimize.data import Split
from optimize.machine import cpu_features

# (logits [N, classes], batch positions [N], which were mirrored [N], targets [N]) -> scalar
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs: passes over the training split; fractions are allowed.
        batch_size: images per step.
        learning_rate: peak of the one-cycle schedule (Smith 2018).
        weight_decay: L2 penalty.
        label_smoothing: of the cross entropy (Szegedy et al. 2016).
        flip: mirror half of the images left to right.
        average: decay of the weights' moving average that is kept at the end; 0 keeps the last.
    """

    epochs: float = 5.0
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    flip: bool = True
    average: float = 0.0

    def __post_init__(self) -> None:
        if not self.epochs > 0 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError("epochs, batch_size and learning_rate must be above 0")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.average < 1:
            raise ValueError("label_smoothing and average must be below 1")


def autocast() -> contextlib.AbstractContextManager[None]:
    """bf16 autocast where the processor multiplies bf16 natively, else nothing."""
    native = {"avx512_bf16", "amx_int8"} & set(cpu_features())
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(native))


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Flip the images `[N, C, H, W]` chosen by the bool `[N]` left to right."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


def batches(size: int, batch_size: int) -> Iterator[Tensor]:
    """Endless shuffled index batches; each pass visits every index once, the remainder dropped."""
    batch_size = min(batch_size, size)
    while True:
        order = torch.randperm(size)
        for start in range(0, size - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def cross_entropy(smoothing: float) -> Loss:
    """Cross entropy with the labels."""

    def loss(logits: Tensor, index: Tensor, mirrored: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    return loss


def fit(
    model: nn.Module,
    split: Split,
    options: TrainOptions,
    loss: Loss | None = None,
    *,
    seed: int = 0,
    title: str = "training",
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        model: takes uint8 `[N, C, H, W]`, returns logits `[N, classes]`.
        split: the training images and labels.
        options: see `TrainOptions`.
        loss: what to minimise; cross entropy with the labels by default.
        seed: of shuffling and augmentation; the same seed gives the same weights on the same
            machine and thread count.
        title: shown on the progress bar.
    """
    torch.manual_seed(seed)
    loss = loss or cross_entropy(options.label_smoothing)
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = max(1, round(options.epochs * len(split) / options.batch_size))
    optimizer = torch.optim.SGD(
        _decay_groups(model, options.weight_decay),
        lr=options.learning_rate,
        momentum=0.9,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=steps + 1, pct_start=0.25
    )
    averaged = None
    if options.average:
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(options.average)
        averaged = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=average, use_buffers=True
        )
    index_batches = batches(len(split), options.batch_size)
    bar = tqdm(range(steps), desc=title, unit="step", leave=False, ncols=78, mininterval=0.5)
    for step in bar:
        index = next(index_batches)
        mirrored = (torch.rand(len(index)) < 0.5) & options.flip
        images = mirror(split.inputs[index], mirrored)
        with autocast():
            logits = model(images)
        value = loss(logits.float(), index, mirrored, split.targets[index])
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        schedule.step()
        if averaged is not None:
            averaged.update_parameters(model)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{value.item():.3f}")
    if averaged is not None:
        model.load_state_dict(averaged.module.state_dict())
    return model.eval()


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and normalisation."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
