"""Fine-tuning of text classifiers on CPU: AdamW, linear decay, batches of equal lengths."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit, lengths
from optimize.training.fit import autocast
from optimize.utils.bars import bar

# Lengths within so many batches are sorted together, so that batches hardly pad.
_POOL = 50
# (model, ids [B, L], window positions [B], targets [B] or [B, classes]) -> scalar
StepLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FineTuneOptions:
    """How to fine-tune (Devlin et al. 2019, Mosbach et al. 2021).

    Attributes:
        epochs: passes over the training texts; fractions are allowed. A pass sees one window
            of every text, drawn anew.
        learning_rate: peak; linear warm-up, then linear decay to zero.
        warmup: share of the steps that warm up.
        batch_tokens: most tokens of a batch, padding included.
        batch_texts: most texts of a batch.
        weight_decay: of matrices, decoupled (AdamW).
        balance: repeat the texts of smaller sources, so that every source counts about as much
            as the largest.
        label_smoothing: of the cross entropy.
    """

    epochs: float = 1.0
    learning_rate: float = 1e-4
    warmup: float = 0.1
    batch_tokens: int = 4096
    batch_texts: int = 48
    weight_decay: float = 0.01
    balance: bool = False
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not self.epochs > 0 or not self.learning_rate > 0 or not 0 <= self.warmup < 1:
            raise ValueError("epochs and learning_rate must be above 0, warmup a share")
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


def fit(
    model: nn.Module,
    split: TextSplit,
    options: FineTuneOptions,
    loss: StepLoss | None = None,
    *,
    seed: int = 0,
    title: str = "training",
    watch: Callable[[int, int, nn.Module], None] | None = None,
) -> nn.Module:
    """Train `model` in place and return it in eval mode.

    Args:
        model: token ids `[N, L]` to logits `[N, classes]`.
        split: the training texts.
        options: see `FineTuneOptions`.
        loss: of one batch; against the labels by default.
        seed: of shuffling, windows and dropout.
        title: shown on the progress bar.
        watch: told (step, steps, model) after every step.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    loss = loss or label_loss(options.label_smoothing)
    sizes = lengths(split.windows)
    plan: list[list[int]] = []
    left = options.epochs
    while left > 1e-6:
        chosen = draw(split, options.balance, random)
        plan += batches(
            chosen[: max(1, round(len(chosen) * min(1.0, left)))], sizes, options, random
        )
        left -= 1
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        fused=True,
    )
    rising = max(1, round(len(plan) * options.warmup))

    def factor(step: int) -> float:
        falling = (len(plan) - step) / max(1, len(plan) - rising)
        return min((step + 1) / rising, falling)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    shown = bar(plan, title=title, unit="step")
    average = 0.0
    for step, batch in enumerate(shown):
        position = torch.tensor(batch)
        ids = split.windows[position, : int(sizes[position].max())]
        targets = split.targets[split.owner[position]]
        with autocast():
            value = loss(model, ids, position, targets)
        value.backward()
        nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        average += (value.item() - average) * max(0.02, 1 / (step + 1))
        if step % 20 == 0:
            shown.set_postfix(loss=f"{average:.3f}")
        if watch is not None:
            watch(step + 1, len(plan), model)
    return model.eval()
