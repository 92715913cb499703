"""Supervised training of image classifiers: SGD, one-cycle, bf16 autocast where it pays.

The same code runs alone, in several processes under `torchrun`, and on GPUs.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.dataset import Split
from optimize.errors import DataError
from optimize.evaluation.accuracy import predict
from optimize.evaluation.environment import cpu_features
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.utils.bars import bar

# (logits [N, classes], batch positions [N], which were mirrored [N], targets [N]) -> scalar
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs: passes over the training split; fractions are allowed.
        batch_size: images per step, over all processes together.
        learning_rate: peak of the one-cycle schedule (Smith 2018).
        weight_decay: L2 penalty.
        label_smoothing: of the cross entropy (Szegedy et al. 2016).
        flip: mirror half of the images left to right.
        average: decay of the weights' moving average that is kept at the end; 0 keeps the last.
        patience: stop after so many epochs without a better accuracy on the validation split,
            and keep the best epoch's weights; 0 trains to the end and keeps the last.
        precision: `bf16` autocast, `fp32`, or `auto`: bf16 where the processor multiplies it
            natively.
        checkpoint_seconds: how often training saves its state, to go on after being killed.
    """

    epochs: float = 5.0
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.05
    flip: bool = True
    average: float = 0.0
    patience: int = 0
    precision: Precision = "auto"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.epochs > 0 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError("epochs, batch_size and learning_rate must be above 0")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.average < 1:
            raise ValueError("label_smoothing and average must be below 1")


@dataclass
class History:
    """What happened during training.

    Attributes:
        loss: (step from 1, mean loss of that step's batch), at most about a hundred.
        validation: (epoch from 1, accuracy), when `patience` asks for it.
        stopped: the epoch early stopping ended at; None if training ran to its end.
    """

    loss: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    stopped: int | None = None


def autocast(
    precision: Precision = "auto", device: torch.device | None = None
) -> contextlib.AbstractContextManager[None]:
    """bf16 autocast, or nothing; see `TrainOptions.precision`."""
    kind = device.type if device is not None else "cpu"
    native = kind == "cuda" or bool({"avx512_bf16", "amx_int8"} & set(cpu_features()))
    enabled = precision == "bf16" or (precision == "auto" and native)
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


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

    Raises:
        DataError: `patience` without a validation split.
        StorageError: a checkpoint could not be written.
    """
    if options.patience and not validation:
        raise DataError("early stopping (patience) needs a validation split: set patience: 0")
    run = _Run(model, split, options, seed)
    history = history if history is not None else History()
    saved = progress.load() if progress is not None else None
    if saved is not None:
        run.restore(saved, history)
    loss = loss or cross_entropy(options.label_smoothing)
    every = max(1, run.steps // 100)
    shown = bar(total=run.steps, initial=run.step, title=title, unit="step")
    with shown, distributed.parallel(model) as trained:
        while run.step < run.steps and history.stopped is None:
            _set_training(model, freeze_norm)
            value = run.advance(trained, split, loss)
            if run.step % every == 0 or run.step == run.steps:
                history.loss.append((run.step, distributed.mean(value)))
                shown.set_postfix(loss=f"{history.loss[-1][1]:.3f}")
            shown.update()
            if options.patience and validation is not None and run.ends_an_epoch():
                run.validate(validation, history)
            last = run.step == run.steps or history.stopped is not None
            if progress is not None and (last or progress.due()):
                progress.save(run.state(history))
    run.finish()
    return model.to("cpu").eval()


def _set_training(model: nn.Module, freeze_norm: bool) -> None:
    model.train()
    if freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


class _Run:
    """Everything that changes while a model trains, so that it can be saved and continued."""

    def __init__(self, model: nn.Module, split: Split, options: TrainOptions, seed: int) -> None:
        torch.manual_seed(seed)
        self.model, self.options, self.device = model, options, distributed.device()
        model.train().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step, self.steps = 0, max(1, round(options.epochs * len(split) / options.batch_size))
        self.optimizer = torch.optim.SGD(
            _decay_groups(model, options.weight_decay),
            lr=options.learning_rate,
            momentum=0.9,
            nesterov=True,
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            options.learning_rate,
            total_steps=self.steps + 1,
            pct_start=max(0.25, 1.5 / (self.steps + 1)),  # a fall or rise of no step divides by 0
        )
        self.averaged = None
        if options.average:
            self.averaged = torch.optim.swa_utils.AveragedModel(
                model,
                multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.average),
                use_buffers=True,
            )
        self.batches = Batches(len(split), options.batch_size)
        self.best: tuple[float, int, dict[str, Tensor]] | None = None  # accuracy, epoch, weights

    def advance(self, trained: nn.Module, split: Split, loss: Loss) -> Tensor:
        """One step of the optimizer; this process's loss, scaled so that their mean is the
        batch's."""
        batch = next(self.batches)
        flipped = (torch.rand(len(batch)) < 0.5) & self.options.flip
        index, mirrored = distributed.share(batch), distributed.share(flipped)
        images = mirror(split.inputs[index], mirrored).to(self.device)
        with autocast(self.options.precision, self.device):
            logits = trained(images)
        value = loss(logits.float(), index, mirrored, split.targets[index].to(self.device))
        value = value * (len(index) * distributed.world() / len(batch))
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.step += 1
        return value.detach()

    def epoch(self) -> int:
        """Passes over the data so far."""
        return self.step // max(1, self.batches.size // self.batches.batch_size)

    def ends_an_epoch(self) -> bool:
        passes = max(1, self.batches.size // self.batches.batch_size)
        return self.step % passes == 0 or self.step == self.steps

    def validate(self, validation: Split, history: History) -> None:
        """Measure, remember the best weights, and say when patience is out."""
        model = self.averaged.module if self.averaged is not None else self.model
        found = 0.0
        if distributed.leads():
            answers = predict(model, validation.inputs, title="validating")
            found = (answers.argmax(1) == validation.targets).float().mean().item()
        found = distributed.agreed(found)
        history.validation.append((self.epoch(), found))
        if self.best is None or found > self.best[0]:
            weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.best = (found, self.epoch(), weights)
        elif self.epoch() - self.best[1] >= self.options.patience:
            history.stopped = self.epoch()

    def finish(self) -> None:
        """Give the model the weights that are kept."""
        if self.best is not None:
            self.model.load_state_dict(self.best[2])
        elif self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())

    def state(self, history: History) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "order": self.batches.order,
            "position": self.batches.position,
            "random": torch.get_rng_state(),
            "best": self.best,
            "history": [history.loss, history.validation, history.stopped],
        }

    def restore(self, state: dict[str, Any], history: History) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.batches.order, self.batches.position = state["order"], state["position"]
        torch.set_rng_state(state["random"])
        self.best = state["best"]
        history.loss, history.validation, history.stopped = state["history"]


def _decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weight decay for matrices and kernels only, not for biases and normalisation."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
