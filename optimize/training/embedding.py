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

from optimize.data.corpus import TextSplit, lengths
from optimize.evaluation import text_inference
from optimize.training import transfer
from optimize.training.finetune import FineTuneOptions, StepLoss


@dataclass(frozen=True, kw_only=True)
class EmbeddingTransferOptions(FineTuneOptions):
    """How to distil embeddings.

    Attributes:
        cosine: weight of 1 minus the cosine of student and teacher.
        relations: weight of the KL of the similarities to other texts' embeddings, 0 for none.
        pairs: weight of the cross entropy of the right document among those of the batch (of a
            process's share of it), and of the right query, all as the student has them; 0 to
            follow the teacher alone.
        temperature: that similarities are divided by.
        bank: how many other texts the relations are to, drawn anew every step.
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


class Pairs:
    """Which documents answer which queries.

    Args:
        pairs: int64 `[P, 2]`, (query, document), positions of texts.
        texts: how many there are.
    """

    def __init__(self, pairs: Tensor, texts: int) -> None:
        self.texts = texts
        self.keys = (pairs[:, 0] * texts + pairs[:, 1]).unique()
        self.documents = self.keys % texts
        self.queries, self.counts = (self.keys // texts).unique(return_counts=True)
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, number: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of the queries with these numbers, and of one document of each."""
        step = (torch.rand(len(number)) * self.counts[number]).long()
        return self.queries[number], self.documents[self.starts[number] + step]

    def answer(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Whether a document answers a query, bool `[Q, D]`."""
        keys = queries[:, None] * self.texts + documents
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        found: Tensor = self.keys[place] == keys
        return found


@dataclass(frozen=True)
class Lesson:
    """What training passes over, and what it minimises: the arguments of `fit`.

    Attributes:
        split: windows with their embeddings; the queries of pairs, or all texts without these.
        loss: see `StepLoss`.
    """

    split: TextSplit
    loss: StepLoss


def lesson(view: TextSplit, options: EmbeddingTransferOptions, pairs: Tensor) -> Lesson:
    """Cosine to the teacher's embeddings, KL of the relations to a bank of them, cross entropy of
    the pairs.

    With pairs, a pass takes every query that has a document, and one of its documents, drawn anew.

    Args:
        view: from `ask`.
        options: see there.
        pairs: int64 `[P, 2]`, (query, document), positions of texts.
    """

    def follow(ours: Tensor, targets: Tensor) -> Tensor:
        """The teacher's part."""
        value: Tensor = options.cosine * (1 - (ours * targets).sum(1)).mean()
        if options.relations:
            chosen = torch.randint(len(view.targets), (options.bank,))
            bank = view.targets[chosen].to(ours.device).t()
            student, teacher = (
                (vectors @ bank / options.temperature).log_softmax(1) for vectors in (ours, targets)
            )
            apart = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
            value = value + options.relations * apart
        return value

    def loss(model: nn.Module, ids: Tensor, position: Tensor, targets: Tensor) -> Tensor:
        return follow(model(ids).float(), targets)

    if not options.pairs or not len(pairs):
        return Lesson(view, loss)
    known, sizes = Pairs(pairs, len(view)), lengths(view.windows)

    def told_apart(queries: Tensor, documents: Tensor, right: Tensor) -> Tensor:
        """Each query's own document among the batch's, and the other way round."""
        own = torch.arange(len(queries), device=queries.device)
        others = right.fill_diagonal_(False).to(queries.device)
        logits = (queries @ documents.t() / options.temperature).masked_fill(others, -torch.inf)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.t(), own)) / 2

    def with_pairs(model: nn.Module, ids: Tensor, number: Tensor, targets: Tensor) -> Tensor:
        query, document = known.draw(number)
        windows = view.windows[document, : int(sizes[document].max())]
        ours, theirs = model(ids).float(), model(windows.to(ids.device)).float()
        wanted = torch.cat([targets, view.targets[document].to(ours.device)])
        value = follow(torch.cat([ours, theirs]), wanted)
        return value + options.pairs * told_apart(ours, theirs, known.answer(query, document))

    return Lesson(_part(view, known.queries), with_pairs)


def _part(view: TextSplit, chosen: Tensor) -> TextSplit:
    """Some texts of a split with one window a text."""
    windows = view.windows[chosen]
    return TextSplit(
        windows, view.targets[chosen], windows=windows, owner=torch.arange(len(chosen)),
        sources=tuple(view.sources[i] for i in chosen.tolist()),
    )  # fmt: skip
