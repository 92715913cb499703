"""Fine-tuning of text classifiers: linear decay, batches of equal lengths.

The same code runs alone, in several processes under `torchrun`, and on GPUs.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit, lengths
from optimize.evaluation import text_inference, text_metrics
from optimize.training import distributed
from optimize.training.checkpoints import Progress
from optimize.training.optimizer import build as build_optimizer
from optimize.training.trainer import (
    History,
    OptimizerName,
    Trainer,
    TrainerOptions,
    Watch,
    autocast,
)

# Lengths within so many batches are sorted together, so that batches hardly pad.
_POOL = 50
# (model, ids [B, L], window positions [B], targets [B] or [B, classes]) -> scalar
StepLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FineTuneOptions(TrainerOptions):
    """How to fine-tune (Devlin et al. 2019, Mosbach et al. 2021), beside what all training takes.

    A pass sees one window of every text, drawn anew. The learning rate rises and falls linearly.

    Attributes:
        batch_tokens: most tokens of a batch, padding included, over all processes together.
        batch_texts: most texts of a batch.
        balance: repeat the texts of smaller sources, so that every source counts about as much
            as the largest.
    """

    usual_rates: ClassVar[dict[str, float]] = {"sgd": 0.01, "adamw": 1e-4}

    epochs: float = 1.0
    _: KW_ONLY
    optimizer: OptimizerName = "adamw"
    max_grad_norm: float = 1.0
    weight_decay: float = 0.01
    batch_tokens: int = 4096
    batch_texts: int = 48
    balance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_tokens < 512 or self.batch_texts < 1:
            raise ValueError("batch_tokens starts at 512, batch_texts at 1")


def draw(split: TextSplit, balance: bool, random: np.random.Generator) -> list[int]:
    """One window position for every text, those of smaller sources repeated, shuffled."""
    counts = torch.bincount(split.owner, minlength=len(split)).numpy()
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    texts = np.arange(len(split))
    if balance:
        sizes = Counter(split.sources)
        largest = max(sizes.values())
        texts = np.repeat(texts, [round(largest / sizes[source]) for source in split.sources])
    random.shuffle(texts)
    chosen: list[int] = (starts[texts] + random.integers(0, counts[texts])).tolist()
    return chosen


def batches(
    chosen: list[int], sizes: Tensor, options: FineTuneOptions, random: np.random.Generator
) -> list[list[int]]:
    """Window positions grouped by length, in random order."""
    found: list[list[int]] = []
    span = _POOL * options.batch_texts
    for start in range(0, len(chosen), span):
        part = sorted(chosen[start : start + span], key=lambda i: int(sizes[i]))
        batch: list[int] = []
        for position in part:
            longer = int(sizes[position])
            full = len(batch) >= options.batch_texts
            if batch and (full or longer * (len(batch) + 1) > options.batch_tokens):
                found.append(batch)
                batch = []
            batch.append(position)
        found.append(batch)
    return [found[i] for i in random.permutation(len(found))]


def label_loss(smoothing: float = 0.0) -> StepLoss:
    """Cross entropy with the labels; binary cross entropy per label in multi-label data."""

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        return against_labels(model(ids).float(), targets, smoothing)

    return loss


def against_labels(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy with int64 `[B]`, binary cross entropy with float `[B, classes]`."""
    if targets.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits, targets)
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


class _Sampler:
    """Batches of window positions int64 `[N]`, all planned beforehand: passes differ in length."""

    def __init__(
        self, split: TextSplit, sizes: Tensor, options: FineTuneOptions, random: np.random.Generator
    ) -> None:
        self.plan: list[list[int]] = []
        self.ends: list[int] = []  # steps after which a pass is complete
        self.position = 0
        left = options.epochs
        while left > 1e-6:
            chosen = draw(split, options.balance, random)
            chosen = chosen[: max(1, round(len(chosen) * min(1.0, left)))]
            self.plan += batches(chosen, sizes, options, random)
            self.ends.append(len(self.plan))
            left -= 1
        self.steps, self.epoch_steps = len(self.plan), self.ends[0]

    def draw(self) -> tuple[Tensor, ...]:
        self.position += 1
        return (torch.tensor(self.plan[self.position - 1]),)

    def epoch(self, step: int) -> int:
        return bisect_right(self.ends, step)

    def ends_epoch(self, step: int) -> bool:
        return step in self.ends

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        self.position = state["step"]


def fit(
    model: nn.Module,
    split: TextSplit,
    options: FineTuneOptions,
    loss: StepLoss | None = None,
    *,
    seed: int = 0,
    title: str = "training",
    validation: TextSplit | None = None,
    progress: Progress | None = None,
    history: History | None = None,
    watch: Watch | None = None,
    say: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return it on the CPU in eval mode.

    Under `torchrun` every process calls this with the same arguments and takes its share of
    each batch; the result is the one of a single process, up to rounding and dropout.

    Args:
        model: token ids `[N, L]` to logits `[N, classes]`.
        split: the training texts.
        options: see `FineTuneOptions`.
        loss: what to minimise, the mean over its batch; against the labels by default.
        seed: of shuffling, windows and dropout; the same seed gives the same weights on the
            same machine and thread count.
        title: shown on the progress bar.
        validation: texts and labels that `patience` decides by.
        progress: where checkpoints are kept; one that fits is continued.
        history: filled with losses and accuracies.
        watch: called with (step, steps, model) after every step.
        say: called with a line if an epoch has very few steps.

    Raises:
        DataError: `patience` without a validation split.
        StorageError: a checkpoint could not be written.
    """
    device = distributed.device()
    model.train().to(device)
    sizes = lengths(split.windows)
    sampler = _Sampler(split, sizes, options, np.random.default_rng(seed))
    optimizer = build_optimizer(model, options)
    rising = max(1, round(sampler.steps * options.warmup))

    def factor(step: int) -> float:
        falling = (sampler.steps - step) / max(1, sampler.steps - rising)
        return min((step + 1) / rising, falling)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    loss = loss or label_loss(options.label_smoothing)

    def objective(model: nn.Module, position: Tensor) -> Tensor:
        ids = split.windows[position, : int(sizes[position].max())].to(device)
        targets = split.targets[split.owner[position]].to(device)
        with autocast(options.precision, device):
            return loss(model, ids, position, targets)

    trainer = Trainer(model, options, sampler, optimizer, schedule)
    return trainer.train(
        objective,
        seed=seed,
        title=title,
        validate=(lambda model: _accuracy(model, validation)) if validation else None,
        progress=progress,
        history=history,
        watch=watch,
        say=say,
    )


def _accuracy(model: nn.Module, split: TextSplit) -> float:
    """Share of whole texts with exactly the right labels."""
    logits = text_inference.predict(model, split, "validating")
    answers = text_metrics.predicted_labels(logits, split.targets.is_floating_point())
    right = text_metrics.target_labels(split.targets, logits.shape[1])
    return float((answers == right).all(1).double().mean())
