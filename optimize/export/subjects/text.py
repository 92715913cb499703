"""Text classifiers: one module from token ids, padded with 0, to logits."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from handlers.windows import pool
from optimize.data.corpus import TextDataset, lengths
from optimize.evaluation import accuracy
from optimize.export import source
from optimize.export.subject import Axis, Exportable, Subject
from optimize.pruning.vocabulary import SharedEmbedding
from optimize.recipe.schema import Recipe
from optimize.tasks import text

SERVED = True  # the files take and return what model.pt does
BATCH = 8
SAMPLES = 600
CALIBRATION = 128


def rows_of(windows: Tensor, rows: Tensor) -> Tensor:
    """The windows in `rows`, without columns that are padding in all of them."""
    chosen = windows[rows]
    return chosen[:, : int(lengths(chosen).max())].contiguous()


def _pieces(windows: Tensor) -> list[tuple[Tensor]]:
    """Two, one, three and eight windows; batches above one mix short and long rows."""
    order = lengths(windows).argsort(stable=True)
    short, middle, long = order[0], order[len(order) // 2], order[-1]
    mixed = order[torch.linspace(0, len(order) - 1, BATCH).long()]
    picks = [[short, middle], [middle], [long, short, middle]]
    return [(rows_of(windows, torch.stack(pick)),) for pick in picks] + [(rows_of(windows, mixed),)]


def _samples(test: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Windows `[M, L]`, owners `[M]` and targets of up to SAMPLES random texts of a split."""
    count = min(SAMPLES, len(test))
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:count]
    keep = torch.isin(test.owner, chosen)
    owner = torch.unique(test.owner[keep], return_inverse=True)[1]
    return test.windows[keep], owner, test.targets[chosen.sort().values]


class _Rows(nn.Module):
    """A shared embedding as plain int32 indexing, which all formats can convert."""

    def __init__(self, shared: SharedEmbedding) -> None:
        super().__init__()
        self.place: Tensor
        self.register_buffer("place", shared.place.to(torch.int32))
        self.table = shared.table

    def forward(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.table(self.place[ids.long()])
        return embedded


def plain(module: nn.Module) -> nn.Module:
    """A copy in eval mode, with only operators that all formats have."""
    made = copy.deepcopy(module).eval()
    embeddings = getattr(made, "embeddings", None)
    if isinstance(embeddings, nn.Module) and isinstance(embeddings.word, SharedEmbedding):
        embeddings.word = _Rows(embeddings.word)
    return made


def encoder_subject(module: nn.Module, windows: Tensor, training: Tensor, output: str) -> Subject:
    """An encoder's module as `model`, from `ids` to `output`.

    Args:
        module: float32, int32 ids `[N, L]` to `[N, columns]`.
        windows: held-out ones `[M, L]`, for tracing and checking.
        training: windows for calibration.
        output: name of the output.
    """
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    size = windows.shape[1]
    places = getattr(getattr(module, "embeddings", None), "position", None)
    limit = places.num_embeddings if isinstance(places, nn.Embedding) else size
    return Subject(
        name="model",
        module=module,
        inputs=("ids",),
        outputs=(output,),
        pieces=list(_pieces(windows)),
        calibration=[
            (rows_of(training, rows),)
            for rows in order[: CALIBRATION // BATCH * BATCH].split(BATCH)
        ],
        axes={
            "batch": Axis(),
            "tokens": Axis(least=2, most=size, sizes=(min(32, size), size), limit=limit),
        },
        dynamic=({0: "batch", 1: "tokens"},),
    )


def make(module: nn.Module, dataset: TextDataset) -> Exportable:
    """A text classifier to export.

    Args:
        module: float32, int32 ids `[N, L]` to logits `[N, classes]`.
        dataset: its held-out windows check the files, its training windows calibrate them.
    """
    windows, owner, targets = _samples(dataset.test)
    count = len(targets)
    train: Any = dataset.train if dataset.train is not None else dataset.test
    subject = encoder_subject(plain(module), windows, train.windows, "logits")
    reference: list[Tensor] = []

    def answers(run: Callable[..., list[Tensor]]) -> Tensor:
        """Logits of whole texts: the mean of their windows'."""
        order = lengths(windows).argsort(stable=True)
        logits = torch.cat([run(rows_of(windows, rows))[0].float() for rows in order.split(BATCH)])
        return pool(torch.empty_like(logits).index_copy_(0, order, logits), owner, count)

    def measure(
        run: dict[str, Callable[..., list[Tensor]]], limit: int | None = None
    ) -> dict[str, Any]:
        """Accuracy and agreement on whole texts."""
        if not reference:
            reference.append(answers(subject))
        logits = answers(run["model"])
        return {
            **text.score(logits, targets, len(dataset.labels)),
            "agreement": accuracy.agreement(logits, reference[0]),
            "agreement_samples": count,
        }

    return Exportable([subject], text.METRICS[dataset.metric], measure, served=True)


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    dataset = text.TextClassification().load_data(recipe)
    source.same_data(dataset.fingerprint(), recipe, report)
    state = source.final_state(recipe, folder, report)
    return make(state.float_model, dataset)
