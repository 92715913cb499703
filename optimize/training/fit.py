"""Supervised training of image classifiers: one-cycle, bf16 autocast where it pays.

The same code runs alone, in several processes under `torchrun`, and on GPUs.
"""

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.dataset import Split
from optimize.errors import ModelError
from optimize.evaluation.accuracy import evaluate
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.training.optimizer import build as build_optimizer
from optimize.training.trainer import History, Trainer, TrainerOptions, autocast

# (logits [N, classes], batch positions [N], which were mirrored [N], targets [N]) -> scalar
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class TrainOptions(TrainerOptions):
    """How to train on images: one-cycle schedule (Smith 2018), beside what all training takes.

    Attributes:
        batch_size: images per step, over all processes together.
        flip: mirror half of the images left to right.
    """

    epochs: float = 5.0
    _: KW_ONLY
    warmup: float = 0.25
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    batch_size: int = 128
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError("batch_size must be above 0")


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """Flip the images `[N, C, H, W]` chosen by the bool `[N]` left to right."""
    return torch.where(which[:, None, None, None], images.flip(3), images)


class Batches(Iterator[Tensor]):
    """Endless shuffled index batches; each pass visits every index once, the remainder dropped.

    `order` and `position` are its whole state, beside torch's random generator.
    """

    def __init__(self, size: int, batch_size: int) -> None:
        self.size, self.batch_size = size, min(batch_size, size)
        self.order, self.position = torch.empty(0, dtype=torch.long), 0

    def __next__(self) -> Tensor:
        if self.position + self.batch_size > len(self.order):
            self.order, self.position = torch.randperm(self.size), 0
        start, self.position = self.position, self.position + self.batch_size
        return self.order[start : self.position]


class Positions:
    """Batches of positions int64 `[N]`, for as many steps as `epochs` of `size` rows take."""

    def __init__(self, size: int, batch_size: int, epochs: float) -> None:
        self.batches = Batches(size, batch_size)
        self.steps = max(1, round(epochs * size / batch_size))
        self.epoch_steps = max(1, size // self.batches.batch_size)

    def draw(self) -> tuple[Tensor, ...]:
        return (next(self.batches),)

    def epoch(self, step: int) -> int:
        return step // self.epoch_steps

    def ends_epoch(self, step: int) -> bool:
        return step % self.epoch_steps == 0

    def state(self) -> dict[str, Any]:
        return {"order": self.batches.order, "position": self.batches.position}

    def restore(self, state: dict[str, Any]) -> None:
        self.batches.order, self.batches.position = state["order"], state["position"]


class _Mirrored(Positions):
    """Positions of images, and which to mirror, bool `[N]`."""

    def __init__(self, size: int, options: TrainOptions) -> None:
        super().__init__(size, options.batch_size, options.epochs)
        self.flip = options.flip

    def draw(self) -> tuple[Tensor, ...]:
        index = next(self.batches)
        return index, (torch.rand(len(index)) < 0.5) & self.flip


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
    validation: Split | None = None,
    progress: Progress | None = None,
    history: History | None = None,
    freeze_norm: bool = False,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return it on the CPU in eval mode.

    Under `torchrun` every process calls this with the same arguments and takes its share of
    each batch; the result is the one of a single process, up to rounding.

    Args:
        model: takes uint8 `[N, C, H, W]`, returns logits `[N, classes]`.
        split: the training images and labels.
        options: see `TrainOptions`.
        loss: what to minimise, the mean over its batch; cross entropy with the labels by
            default.
        seed: of shuffling and augmentation; the same seed gives the same weights on the same
            machine and thread count.
        title: shown on the progress bar.
        validation: images and labels that `patience` decides by.
        progress: where checkpoints are kept; one that fits is continued.
        history: filled with losses and accuracies.
        freeze_norm: leave the statistics of batch normalisation as they are.
        say: called with a line if an epoch has very few steps.

    Raises:
        DataError: `patience` without a validation split.
        ModelError: the model returns something else than logits while it trains.
        StorageError: a checkpoint could not be written.
    """
    device = distributed.device()
    model.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    sampler = _Mirrored(len(split), options)
    optimizer = build_optimizer(model, options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        options.learning_rate,
        total_steps=sampler.steps + 1,
        # A fall or rise of no step divides by 0.
        pct_start=max(options.warmup, 1.5 / (sampler.steps + 1)),
        cycle_momentum=options.optimizer == "sgd" and options.momentum is None,
    )
    loss = loss or cross_entropy(options.label_smoothing)

    def objective(model: nn.Module, index: Tensor, mirrored: Tensor) -> Tensor:
        images = mirror(split.inputs[index], mirrored).to(device)
        with autocast(options.precision, device):
            logits = model(images)
        if not isinstance(logits, Tensor):
            raise ModelError(
                f"in training mode the model returns {type(logits).__name__}, not logits alone: "
                "have it leave out what else it answers then (auxiliary heads, a loss of its own), "
                "or leave out what trains it"
            )
        return loss(logits.float(), index, mirrored, split.targets[index].to(device))

    def accuracy(model: nn.Module) -> float:
        assert validation is not None
        return evaluate(model, validation, title="validating").value

    trainer = Trainer(model, options, sampler, optimizer, schedule, freeze_norm=freeze_norm)
    return trainer.train(
        objective,
        seed=seed,
        title=title,
        validate=accuracy if validation else None,
        progress=progress,
        history=history,
        say=say,
    )
