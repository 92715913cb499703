"""The one training loop: stopped early, averaged, killed and continued, shared by processes.

Images and texts differ in how a batch is drawn, in the optimizer with its schedule, and in the
loss: `optimize.training.fit` and `optimize.training.finetune` bring these.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from optimize.errors import DataError, ModelError
from optimize.evaluation.environment import bf16_is_faster
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.utils.bars import bar

OptimizerName = Literal["sgd", "adamw"]
Precision = Literal["auto", "bf16", "fp32"]
# (model, this process's share of the batch's index tensors) -> scalar, the mean over that share
Objective = Callable[..., Tensor]
Watch = Callable[[int, int, nn.Module], None]
FEW_STEPS = 50
"""Fewer steps in a pass over the data are warned about."""


@dataclass(frozen=True)
class TrainerOptions:
    """What everything that trains takes.

    Attributes:
        epochs: passes over the training split; fractions are allowed.
        optimizer: `sgd` or `adamw`.
        learning_rate: peak of the schedule; the optimizer's usual one by default.
        momentum, nesterov: of `sgd`. Without a number, momentum is 0.9, and of images it goes from
            0.95 to 0.85 and back while the learning rate rises and falls.
        betas, eps: of `adamw`.
        warmup: share of the steps in which the learning rate rises to its peak.
        max_grad_norm: gradients of a larger norm are scaled down to it; 0 leaves them as they are.
        weight_decay: of matrices and kernels, not of biases and normalisation.
        label_smoothing: of the cross entropy (Szegedy et al. 2016).
        average: decay of the weights' moving average that is kept at the end; 0 keeps the last.
        patience: stop after so many epochs without a better accuracy on the validation split,
            and keep the best epoch's weights; 0 trains to the end and keeps the last.
        precision: `bf16` autocast, `fp32`, or `auto`: bf16 where it was measured to be
            the faster (`environment.bf16_is_faster`).
        checkpoint_seconds: how often training saves its state, to go on after being killed.
    """

    usual_rates: ClassVar[dict[str, float]] = {"sgd": 0.1, "adamw": 1e-3}

    epochs: float = 1.0
    _: KW_ONLY
    optimizer: OptimizerName = "sgd"
    learning_rate: float = math.nan
    momentum: float | None = None
    nesterov: bool = True
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    warmup: float = 0.1
    max_grad_norm: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    average: float = 0.0
    patience: int = 0
    precision: Precision = "auto"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        self._check_optimizer()
        if math.isnan(self.learning_rate):
            object.__setattr__(self, "learning_rate", self.usual_rates[self.optimizer])
        if not self.epochs > 0 or not self.learning_rate > 0:
            raise ValueError("epochs and learning_rate must be above 0")
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.average < 1:
            raise ValueError("label_smoothing and average must be below 1")
        if not 0 <= self.warmup < 1 or self.max_grad_norm < 0:
            raise ValueError("warmup must be a share below 1, max_grad_norm not negative")

    def _check_optimizer(self) -> None:
        if self.optimizer not in self.usual_rates:
            raise ValueError(f"optimizer is sgd or adamw, not {self.optimizer!r}")
        if self.optimizer == "adamw" and (self.momentum is not None or not self.nesterov):
            raise ValueError("momentum and nesterov are options of sgd; adamw has betas")
        if self.optimizer == "sgd" and (self.betas != [0.9, 0.999] or self.eps != 1e-8):
            raise ValueError("betas and eps are options of adamw; sgd has momentum")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            raise ValueError("momentum is a share below 1")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas are two numbers below 1, as in [0.9, 0.999]")


@dataclass
class History:
    """What happened during training.

    Attributes:
        loss: (step from 1, mean loss of that step's batch), at most about a hundred.
        validation: (epoch from 1, accuracy), when `patience` asks for it.
        stopped: the epoch early stopping ended at; None if training ran to its end.
        steps: of the whole training.
        epoch_steps: of one pass over the data.
    """

    loss: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    stopped: int | None = None
    steps: int = 0
    epoch_steps: int = 0


class Sampler(Protocol):
    """Draws the batches of one training, all of them in a fixed order for a seed."""

    steps: int
    epoch_steps: int

    def draw(self) -> tuple[Tensor, ...]:
        """The next batch: index tensors `[N, ...]`, the same in every process."""

    def epoch(self, step: int) -> int:
        """Passes over the data that are complete after `step` steps."""

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` was the last of a pass."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs beside the number of steps and torch's random generator."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the batch that was drawn last; `state` holds `state()`'s keys and `step`."""


def autocast(
    precision: Precision = "auto", device: torch.device | None = None
) -> contextlib.AbstractContextManager[None]:
    """bf16 autocast, or nothing; see `TrainerOptions.precision`."""
    kind = device.type if device is not None else "cpu"
    faster = kind == "cuda" or bf16_is_faster()
    enabled = precision == "bf16" or (precision == "auto" and faster)
    return torch.autocast(kind, torch.bfloat16, enabled=enabled)


class _Loss(nn.Module):
    """The objective as a module around the model: DDP averages gradients of a `forward`."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, *batch: Tensor) -> Tensor:
        return self.objective(self.model, *batch)


class Trainer:
    """Everything that changes while a model trains, so that it can be saved and continued.

    Args:
        model: on `distributed.device()`.
        options: see `TrainerOptions`.
        sampler: where batches come from.
        optimizer: over the model's parameters.
        schedule: of the learning rate, stepped after every batch.
        freeze_norm: leave the statistics of batch normalisation as they are.
    """

    def __init__(
        self,
        model: nn.Module,
        options: TrainerOptions,
        sampler: Sampler,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        *,
        freeze_norm: bool = False,
    ) -> None:
        self.model, self.options, self.sampler = model, options, sampler
        self.optimizer, self.schedule = optimizer, schedule
        self.freeze_norm = freeze_norm
        self.step, self.history = 0, History()
        self.averaged: AveragedModel | None = None
        if options.average:
            self.averaged = AveragedModel(
                model, multi_avg_fn=_moving_average(options.average), use_buffers=True
            )
        self.best: tuple[float, int, dict[str, Tensor]] | None = None  # accuracy, epoch, weights

    def train(
        self,
        objective: Objective,
        *,
        seed: int = 0,
        title: str = "training",
        validate: Callable[[nn.Module], float] | None = None,
        progress: Progress | None = None,
        history: History | None = None,
        watch: Watch | None = None,
        say: Callable[[str], None] | None = None,
    ) -> nn.Module:
        """Train to the end, or until patience is out; returns the model on the CPU in eval mode.

        Args:
            objective: what to minimise.
            seed: of torch's generator, from which the sampler and dropout may draw.
            title: shown on the progress bar.
            validate: the accuracy that `patience` decides by; called in the first process only.
            progress: where checkpoints are kept; one that fits is continued.
            history: filled with losses and accuracies.
            watch: called with (step, steps, model) after every step.
            say: called with a line if an epoch has very few steps.

        Raises:
            DataError: `patience` without `validate`.
            ModelError: the loss is no longer a finite number.
            StorageError: a checkpoint could not be written.
        """
        if self.options.patience and validate is None:
            raise DataError("early stopping (patience) needs a validation split: set patience: 0")
        torch.manual_seed(seed)
        self.history = history if history is not None else History()
        saved = progress.load() if progress is not None else None
        if saved is not None:
            self.restore(saved)
        steps = self.sampler.steps
        self.history.steps, self.history.epoch_steps = steps, self.sampler.epoch_steps
        if say is not None and self.sampler.epoch_steps < FEW_STEPS:
            say(
                f"    warning: {title}: an epoch has {self.sampler.epoch_steps} steps, the whole "
                f"training {steps}: make batches smaller or train for more epochs if it learns "
                "too little"
            )
        every = max(1, steps // 100)
        shown = bar(total=steps, initial=self.step, title=title, unit="step")
        with shown, distributed.parallel(_Loss(self.model, objective)) as loss:
            while self.step < steps and self.history.stopped is None:
                value = self.advance(loss)
                if self.step % every == 0 or self.step == steps:
                    mean = distributed.mean(value)
                    if not math.isfinite(mean):
                        raise ModelError(
                            f"training diverged: the loss is {mean} at step {self.step} of "
                            f"{steps}. Lower learning_rate (now {self.options.learning_rate:g}) or "
                            "set max_grad_norm: 1"
                        )
                    self.history.loss.append((self.step, mean))
                    shown.set_postfix(loss=f"{self.history.loss[-1][1]:.3f}")
                shown.update()
                if watch is not None:
                    watch(self.step, steps, self.model)
                ends = self.sampler.ends_epoch(self.step) or self.step == steps
                if self.options.patience and validate is not None and ends:
                    self.validate(validate)
                last = self.step == steps or self.history.stopped is not None
                if progress is not None and (last or progress.due()):
                    progress.save(self.state())
        self.finish()
        return self.model.to("cpu").eval()

    def advance(self, loss: nn.Module) -> Tensor:
        """One step of the optimizer; this process's loss, scaled so that their mean is the
        batch's."""
        self.model.train()
        if self.freeze_norm:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        share = [distributed.share(index) for index in self.sampler.draw()]
        value: Tensor = loss(*share) * distributed.weight(len(share[0]))
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        if self.options.max_grad_norm:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, self.options.max_grad_norm, foreach=True)
        self.optimizer.step()
        self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.step += 1
        return value.detach()

    def validate(self, accuracy: Callable[[nn.Module], float]) -> None:
        """Measure, remember the best weights, and note when patience is out."""
        model = self.averaged.module if self.averaged is not None else self.model
        value = distributed.agreed(accuracy(model) if distributed.leads() else 0.0)
        epoch = self.sampler.epoch(self.step)
        self.history.validation.append((epoch, value))
        if self.best is None or value > self.best[0]:
            weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            self.best = (value, epoch, weights)
        elif epoch - self.best[1] >= self.options.patience:
            self.history.stopped = epoch

    def finish(self) -> None:
        """Give the model the weights that are kept."""
        if self.best is not None:
            self.model.load_state_dict(self.best[2])
        elif self.averaged is not None:
            self.model.load_state_dict(self.averaged.module.state_dict())

    def state(self) -> dict[str, Any]:
        """Tensors and plain values that `restore` goes on from."""
        history = self.history
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "random": torch.get_rng_state(),
            "best": self.best,
            "history": [history.loss, history.validation, history.stopped],
            **self.sampler.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be where the training was that `state` was taken from."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.sampler.restore(state)
        torch.set_rng_state(state["random"])
        self.best = state["best"]
        self.history.loss, self.history.validation, self.history.stopped = state["history"]


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average of floating tensors; counts and tables of positions are copied."""
    moving = get_ema_multi_avg_fn(decay)

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        if averaged[0].is_floating_point():
            moving(averaged, current, count)
            return
        for ours, theirs in zip(averaged, current, strict=True):
            ours.copy_(theirs)

    return update
