"""Distillation of text embeddings: the teacher's vectors, and what they are near to.

A student learns the direction of its teacher's embedding of each text (Reimers and Gurevych
2020), and its relations: how near the text is to a bank of others, as a distribution (SEED, Fang
et al. 2021). From pairs of query and document it can learn what its teacher was not told: that
they belong together (van den Oord et al. 2018). The teacher is asked once, before training.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from optimize.data.corpus import TextSplit
from optimize.evaluation import text_inference
from optimize.training import transfer
from optimize.training.finetune import FineTuneOptions, StepLoss


@dataclass(frozen=True, kw_only=True)
class EmbeddingTransferOptions(FineTuneOptions):
    """How to distil embeddings.

    Attributes:
        cosine: weight of 1 minus the cosine of student and teacher.
        relations: weight of the KL of the similarities to other texts' embeddings, 0 for none.
        pairs: weight of the cross entropy of the right document's embedding, as the teacher has
            it, among the bank's, and of the right query's; 0 to follow the teacher alone.
        temperature: that similarities are divided by.
        bank: how many other texts, drawn anew every step.
        freeze_table: leave the word embeddings as they are; words that no training text has keep
            their place among the others.
    """

    cosine: float = 1.0
    relations: float = 1.0
    pairs: float = 0.0
    temperature: float = 0.05
    bank: int = 1024
    freeze_table: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = (self.cosine, self.relations, self.pairs)
        if min(weights) < 0 or not sum(weights):
            raise ValueError("cosine, relations and pairs must not be negative, nor all 0")
        if not self.temperature > 0 or self.bank < 2:
            raise ValueError("temperature must be above 0 and bank 2 or more")
        if self.patience or self.label_smoothing or self.balance:
            raise ValueError(
                "patience, label_smoothing and balance need labels: embeddings have none"
            )


def ask(teacher: nn.Module, split: TextSplit, seed: int) -> TextSplit:
    """One window of every text with the teacher's embedding as its target, float32 `[N, width]`."""
    split = transfer.one_window_each(split, seed)
    embeddings = text_inference.window_logits(teacher.eval(), split.windows, title="teacher")
    return TextSplit(
        split.windows,
        embeddings,
        windows=split.windows,
        owner=split.owner,
        sources=split.sources,
    )


class Partners:
    """The texts that each text is paired with.

    Args:
        pairs: int64 `[P, 2]`, positions of texts.
        texts: how many there are.
    """

    def __init__(self, pairs: Tensor, texts: int) -> None:
        both = torch.cat([pairs, pairs.flip(1)])
        both = both[both[:, 0].argsort(stable=True)]
        self.counts = torch.bincount(both[:, 0], minlength=texts)
        self.starts = self.counts.cumsum(0) - self.counts
        self.others = both[:, 1]

    def draw(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the texts at `position` have a partner, bool, and one of each of these."""
        counts = self.counts[position]
        has = counts > 0
        step = (torch.rand(int(has.sum())) * counts[has]).long()
        return has, self.others[self.starts[position[has]] + step]


def transfer_loss(view: TextSplit, options: EmbeddingTransferOptions, pairs: Tensor) -> StepLoss:
    """Cosine to the teacher's embeddings, KL of the relations to a bank of them, cross entropy of
    the partners.

    Args:
        view: from `ask`.
        options: see there.
        pairs: int64 `[P, 2]`, positions of texts that belong together.
    """
    partners = Partners(pairs, len(view.targets))

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        ours = model(ids).float()
        value: Tensor = options.cosine * (1 - (ours * targets).sum(1)).mean()
        chosen = torch.randint(len(view.targets), (options.bank,))
        bank = view.targets[chosen].to(ours.device).t()
        if options.relations:
            student, teacher = (
                (vectors @ bank / options.temperature).log_softmax(1) for vectors in (ours, targets)
            )
            apart = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
            value = value + options.relations * apart
        if options.pairs and len(pairs):
            has, others = partners.draw(position)
            right = (ours[has] * view.targets[others].to(ours.device)).sum(1, keepdim=True)
            logits = torch.cat([right, ours[has] @ bank], 1) / options.temperature
            logits = logits.masked_fill(_same(others, chosen).to(ours.device), -torch.inf)
            missed = F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
            if len(logits):
                value = value + options.pairs * missed
        return value

    return loss


def _same(others: Tensor, chosen: Tensor) -> Tensor:
    """Where the bank holds the right text itself, bool `[n, 1 + bank]`."""
    held = others[:, None] == chosen
    return torch.cat([torch.zeros(len(others), 1, dtype=torch.bool), held], 1)
