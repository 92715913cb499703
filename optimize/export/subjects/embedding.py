"""Text embedders: one module from token ids, padded with 0, to embeddings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handlers.windows import mean_direction
from optimize.data.corpus import TextSplit, lengths
from optimize.data.text_pairs import PairDataset, Retrieval
from optimize.evaluation import retrieval
from optimize.evaluation.retrieval import RECALL, Embedded
from optimize.export import source
from optimize.export.subject import Exportable
from optimize.export.subjects.text import BATCH, encoder_subject, plain, rows_of
from optimize.recipe.schema import Recipe
from optimize.tasks.embedding import TextEmbedding

SERVED = True  # the files take and return what model.pt does
QUERIES = 300
DOCUMENTS = 1500


def _part(test: Retrieval) -> tuple[Tensor, Tensor, int, Tensor]:
    """Windows `[M, L]`, owners `[M]`, number of queries and relevant pairs of the first QUERIES
    queries and DOCUMENTS documents, those that answer the queries among them."""
    queries = min(QUERIES, len(test))
    relevant = test.relevant[test.relevant[:, 0] < queries]
    own = relevant[:, 1].unique()
    others = torch.arange(len(test.documents))
    others = others[~torch.isin(others, own)][: max(0, DOCUMENTS - len(own))]
    documents = torch.cat([own, others])
    place = torch.full((len(test.documents),), -1)
    place[documents] = torch.arange(len(documents))
    pairs = torch.stack([relevant[:, 0], place[relevant[:, 1]]], 1)
    asked, offered = (
        _texts(test.asked, torch.arange(queries)),
        _texts(test.offered, documents),
    )
    windows = torch.cat([asked[0], offered[0]])
    return windows, torch.cat([asked[1], offered[1] + queries]), queries, pairs


def _texts(split: TextSplit, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Windows and owners of the texts `chosen`, in that order."""
    place = torch.full((len(split),), -1)
    place[chosen] = torch.arange(len(chosen))
    owner = place[split.owner]
    order = owner.argsort(stable=True)
    order = order[owner[order] >= 0]
    return split.windows[order], owner[order]


def make(module: nn.Module, dataset: PairDataset) -> Exportable:
    """A text embedder to export.

    Args:
        module: float32, int32 ids `[N, L]` to embeddings `[N, width]`.
        dataset: its held-out windows check the files, its training windows calibrate them.
    """
    windows, owner, queries, relevant = _part(dataset.test)
    count = int(owner.max()) + 1
    subject = encoder_subject(plain(module), windows, dataset.train.windows, "embeddings")
    reference: list[Embedded] = []

    def answers(run: Callable[..., list[Tensor]]) -> Embedded:
        """Embeddings of whole texts."""
        order = lengths(windows).argsort(stable=True)
        rows = torch.cat([run(rows_of(windows, part))[0].float() for part in order.split(BATCH)])
        rows = torch.empty_like(rows).index_copy_(0, order, rows)
        vectors = mean_direction(rows, owner, count)
        return Embedded(vectors[:queries], vectors[queries:])

    def measure(
        run: dict[str, Callable[..., list[Tensor]]], limit: int | None = None
    ) -> dict[str, Any]:
        """Retrieval among fewer documents than the report's, and the overlap of the nearest."""
        if not reference:
            reference.append(answers(subject))
        found = answers(run["model"])
        return {
            **retrieval.score(found, relevant),
            "agreement": retrieval.overlap(found, reference[0]),
            "agreement_samples": queries,
        }

    return Exportable([subject], RECALL, measure, served=True)


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    dataset = TextEmbedding().load_data(recipe)
    source.same_data(dataset.fingerprint(), recipe, report)
    state = source.final_state(recipe, folder, report)
    return make(state.float_model, dataset)
