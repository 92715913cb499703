"""Training of models of named tensors: supervised, and by distillation."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.tensors import Rows
from optimize.errors import ModelError
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.training.fit import Positions
from optimize.training.optimizer import build as build_optimizer
from optimize.training.trainer import (
    History,
    OptimizerName,
    Precision,
    Trainer,
    TrainerOptions,
    autocast,
)

LossName = Literal["auto", "mse", "l1", "huber", "cross_entropy", "binary_cross_entropy"]
Outputs = tuple[Tensor, ...]
Loss = Callable[[Outputs, Tensor], Tensor]
"""(outputs `[M, ...]`, positions int64 `[M]` of the rows) -> scalar."""


@dataclass(frozen=True)
class TensorTrainOptions(TrainerOptions):
    """How to train on tensors: one-cycle schedule (Smith 2018), beside what all training takes.

    Attributes:
        loss: by default the metric's usual one.
        batch_size: rows per step, over all processes together.
    """

    usual_rates: ClassVar[dict[str, float]] = {"sgd": 0.05, "adamw": 2e-3}

    epochs: float = 10.0
    _: KW_ONLY
    optimizer: OptimizerName = "adamw"
    weight_decay: float = 1e-4
    precision: Precision = "fp32"
    loss: LossName = "auto"
    batch_size: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more")


@dataclass(frozen=True, kw_only=True)
class TensorDistillOptions(TensorTrainOptions):
    """How to distil.

    Attributes:
        alpha: weight of the teacher's answers; 1 - alpha is the weight of the targets, where there
            are some.
        temperature: softens classes, as in `optimize.training.distillation`.
    """

    alpha: float = 0.9
    temperature: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0 or not 0 <= self.alpha <= 1:
            raise ValueError("temperature must be above 0 and alpha between 0 and 1")


def loss_between(name: str, smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of an output and its target, by name."""

    def alike(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda output, target: function(output, target.to(output.dtype).view_as(output))

    def classes(output: Tensor, target: Tensor) -> Tensor:
        if output.dim() < 2 or output.shape[1] == 1:  # one logit for two classes
            return alike(F.binary_cross_entropy_with_logits)(output, target)
        if target.dim() == output.dim() and target.shape[1] == 1:
            target = target.squeeze(1)
        return F.cross_entropy(output, target.long(), label_smoothing=smoothing)

    return {
        "mse": alike(F.mse_loss),
        "l1": alike(F.l1_loss),
        "huber": alike(F.huber_loss),
        "cross_entropy": classes,
        "binary_cross_entropy": alike(F.binary_cross_entropy_with_logits),
    }[name]


def supervised(
    targets: Outputs, name: str, chosen: Callable[[Outputs], Outputs], smoothing: float = 0.0
) -> Loss:
    """The sum of the losses of all targets.

    Args:
        targets: `[N, ...]` each.
        name: of the loss.
        chosen: the outputs that belong to the targets, in order.
        smoothing: of the classes.
    """
    between = loss_between(name, smoothing)

    def loss(outputs: Outputs, index: Tensor) -> Tensor:
        pairs = zip(chosen(outputs), targets, strict=True)
        parts = [between(output, target[index].to(output.device)) for output, target in pairs]
        return torch.stack(parts).sum()

    return loss


def distillation(
    teacher: Outputs, name: str, options: TensorDistillOptions, labelled: Loss | None
) -> Loss:
    """The teacher's answers `[N, ...]`: of classes by their divergence, of labels by their
    probabilities, of numbers by the squared difference over their variance; and the targets."""
    scales = [
        t.float().var(correction=0).clamp(min=1e-8) if t.is_floating_point() else t.new_ones(())
        for t in teacher
    ]

    def between(output: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
        if name == "cross_entropy" and output.dim() > 1 and output.shape[1] > 1:
            soft = F.softmax(wanted / options.temperature, dim=1)
            student = F.log_softmax(output / options.temperature, dim=1)
            divergence = (soft * (soft.clamp(min=1e-9).log() - student)).sum(1).mean()
            return divergence * options.temperature**2
        if name in ("cross_entropy", "binary_cross_entropy"):
            return F.binary_cross_entropy_with_logits(output, wanted.sigmoid())
        return F.mse_loss(output, wanted) / scale.to(output.device)

    def loss(outputs: Outputs, index: Tensor) -> Tensor:
        parts = [
            between(output, wanted[index].to(output.device), scale)
            for output, wanted, scale in zip(outputs, teacher, scales, strict=True)
            if wanted.is_floating_point()
        ]
        soft = torch.stack(parts).sum()
        if labelled is None:
            return soft
        return options.alpha * soft + (1 - options.alpha) * labelled(outputs, index)

    return loss


def fit(
    model: nn.Module,
    rows: Rows,
    options: TensorTrainOptions,
    loss: Loss,
    *,
    seed: int = 0,
    title: str = "training",
    validate: Callable[[nn.Module], float] | None = None,
    progress: Progress | None = None,
    history: History | None = None,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return it on the CPU in eval mode.

    Args:
        model: from tensors `[N, ...]` to a tensor or a tuple of tensors.
        rows: the training rows.
        options: see `TensorTrainOptions`.
        loss: what to minimise, the mean over its batch.
        seed: of shuffling and dropout.
        title: shown on the progress bar.
        validate: what `patience` decides by, larger for better.
        progress, history, say: as `optimize.training.fit.fit` takes them.

    Raises:
        DataError: `patience` without `validate`.
        ModelError: the model returns something else while it trains, or training diverged.
        StorageError: a checkpoint could not be written.
    """
    device = distributed.device()
    model.train().to(device)
    sampler = Positions(len(rows), options.batch_size, options.epochs)
    optimizer = build_optimizer(model, options)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        options.learning_rate,
        total_steps=sampler.steps + 1,
        # A fall or rise of no step divides by 0.
        pct_start=max(options.warmup, 1.5 / (sampler.steps + 1)),
        cycle_momentum=options.optimizer == "sgd" and options.momentum is None,
    )

    def objective(model: nn.Module, index: Tensor) -> Tensor:
        with autocast(options.precision, device):
            answers = model(*(tensor[index].to(device) for tensor in rows.inputs))
        outputs = answers if isinstance(answers, tuple) else (answers,)
        if not all(isinstance(output, Tensor) for output in outputs):
            kind = type(answers).__name__
            raise ModelError(
                f"in training mode the model returns {kind}, not what it returns in eval mode: "
                "have it leave out what else it answers then"
            )
        widened = (o.float() if o.is_floating_point() else o for o in outputs)
        return loss(tuple(widened), index)

    trainer = Trainer(model, options, sampler, optimizer, schedule)
    return trainer.train(
        objective,
        seed=seed,
        title=title,
        validate=validate,
        progress=progress,
        history=history,
        say=say,
    )
