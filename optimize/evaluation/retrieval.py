"""Retrieval: which documents are nearest to a query, and how often a right one is among them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optimize.evaluation.accuracy import wilson
from optimize.evaluation.metrics import Metric

NEAREST = 10
RECALL = Metric("recall_at_10", "Recall@10")


@dataclass(frozen=True)
class Embedded:
    """Embeddings of length 1 of a retrieval's texts: float32 `[Q, width]` and `[D, width]`."""

    queries: Tensor
    documents: Tensor


def _rows(queries: Tensor, documents: Tensor) -> list[Tensor]:
    """Cosines of all documents, some queries at a time."""
    return [part @ documents.t() for part in queries.split(256)]


def nearest(answers: Embedded, count: int = NEAREST) -> Tensor:
    """The documents nearest to each query, int64 `[Q, count]`, nearest first."""
    count = min(count, len(answers.documents))
    rows = _rows(answers.queries, answers.documents)
    return torch.cat([part.topk(count, dim=1).indices for part in rows])


def ranks(answers: Embedded, relevant: Tensor) -> Tensor:
    """The place of each query's best right document, int64 `[Q]` from 1; ties count against it.

    Args:
        answers: embeddings.
        relevant: int64 `[P, 2]`, (query, document); every query is there.
    """
    own = (answers.queries[relevant[:, 0]] * answers.documents[relevant[:, 1]]).sum(1)
    best = torch.full((len(answers.queries),), -torch.inf)
    best = best.scatter_reduce(0, relevant[:, 0], own, "amax")
    right = torch.zeros(len(answers.queries), len(answers.documents), dtype=torch.bool)
    right[relevant[:, 0], relevant[:, 1]] = True
    found, start = [], 0
    for part in _rows(answers.queries, answers.documents):
        stop = start + len(part)
        ahead = (part >= best[start:stop, None]) & ~right[start:stop]
        found.append(ahead.sum(1) + 1)
        start = stop
    return torch.cat(found)


def score(answers: Embedded, relevant: Tensor) -> dict[str, Any]:
    """Recall@10 and recall@1, the share of queries with a right document among so many nearest
    ones, and the mean reciprocal rank, each with its 95% interval: Wilson's for shares."""
    places = ranks(answers, relevant)
    count = len(places)
    within = int((places <= NEAREST).sum())
    first = int((places == 1).sum())
    reciprocal = places.double().reciprocal()
    half = 1.96 * float(reciprocal.std()) / count**0.5 if count > 1 else 0.0
    mean = float(reciprocal.mean())
    return {
        RECALL.name: within / count,
        "samples": count,
        "ci95": list(wilson(within, count)),
        "recall_at_1": first / count,
        "recall_at_1_ci95": list(wilson(first, count)),
        "mrr": mean,
        "mrr_ci95": [max(0.0, mean - half), min(1.0, mean + half)],
        "documents": len(answers.documents),
    }


def overlap(answers: Embedded, reference: Embedded) -> float:
    """The mean share of a query's ten nearest documents that are also the reference's."""
    ours, theirs = nearest(answers), nearest(reference)
    common = (ours[:, :, None] == theirs[:, None, :]).any(2)
    return float(common.double().mean())
