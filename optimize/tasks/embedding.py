"""Text embeddings: pairs of texts, BERT encoders, and retrieval."""

import importlib
import json
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from handlers.text_embedder import quantized
from handlers.texts import bucket
from handlers.windows import mean_direction
from optimize.data.corpus import TextSplit, lengths
from optimize.data.dataset import Sample
from optimize.data.tables import SUFFIXES
from optimize.data.text_pairs import PairDataset, Retrieval
from optimize.errors import DataError, ModelError, RecipeError
from optimize.evaluation import retrieval, text_inference
from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import Metric
from optimize.evaluation.retrieval import Embedded
from optimize.models.architectures.bert import BertEmbedder
from optimize.models.notes import note
from optimize.models.parametrized import settle
from optimize.models.sources import bert, dependencies, torchscript
from optimize.models.sources.names import resolve
from optimize.models.sources.user_file import load_function
from optimize.models.weights import load_checkpoint
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import embedding_stages, examples, named
from optimize.tasks.base import Inputs, Stage, Task
from optimize.tasks.encoder_stages import QuantizeStage
from optimize.tasks.encoders import (
    check_positions,
    check_tokenizer,
    cut_by_own_tokenizer,
    in_folder,
)

MAX_BYTES = 1_048_576
DATASETS = ("wordnet", "text_pairs")
TAKEN = "text_pairs: TABLE (CSV, TSV, JSON lines or Parquet with the columns query and document)"
SAMPLES = 8
# Documents of a sample: the right one, and as many others.
OFFERED = 8

_ANSWERS: WeakKeyDictionary[nn.Module, dict[str, Embedded]] = WeakKeyDictionary()


def load_data(spec: Named, folder: Path, seed: int) -> PairDataset:
    """Pairs of texts: `wordnet`, or `text_pairs: {path: ...}`, see these modules.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: no such data set or option.
    """
    if ":" not in spec.name and spec.name not in DATASETS:
        place = folder / Path(spec.name).expanduser()
        if place.suffix.lower() in SUFFIXES or ("/" in spec.name and place.is_dir()):
            spec = Named("text_pairs", {"path": spec.name, **spec.options}, spec.where)
    if spec.name not in DATASETS:
        raise RecipeError(
            f"no data set {spec.name!r}; there are {', '.join(DATASETS)}: {TAKEN}", *spec.where
        )
    spec = named.absolute(named.with_path(spec), folder, "path", "encoder")
    loader = importlib.import_module(f"optimize.data.{spec.name}").load
    dataset: PairDataset = named.call(loader, spec, seed=seed)
    return dataset


def build_model(
    spec: Named, dataset: PairDataset, folder: Path, checkpoint: str | None = None
) -> nn.Module:
    """The model that `spec` names: a Hugging Face folder of BERT, by its own name or as
    `bert: {path: FOLDER}`, `file.py:build`, or a TorchScript file.

    The folder defaults to that of the data's tokenizer. A user's function returns a module from
    token ids int32 `[N, L]`, padded with 0, to embeddings `[N, width]`, which need not have
    length 1.

    Raises:
        ModelError: it cannot be built, or fits neither checkpoint nor tokenizer.
        RecipeError: no such architecture or option, or it has fewer positions than the data's
            windows have tokens.
    """
    spec = resolve(spec)
    file = None if checkpoint is None else folder / Path(checkpoint).expanduser()
    model: nn.Module
    if ":" in spec.name:
        built = named.call_users(load_function(spec.name, folder), spec, ModelError)
        if not isinstance(built, nn.Module):
            raise ModelError(f"{spec.name} returned {type(built).__name__}, not an nn.Module")
        model = built
    elif spec.name in ("bert", "huggingface"):
        spec = in_folder(spec, dataset.encoder, folder)
        check_tokenizer(Path(spec.options["path"]), dataset.encoder)
        model = named.call(bert.build_embedder, spec, checkpoint=file)
        file = None
    elif spec.name == "torchscript":
        model = named.call(torchscript.build, spec, folder=folder)
    else:
        others = ["bert", "path/to/file.py:build", "a TorchScript file", "a Hugging Face folder"]
        raise named.unknown("architecture", spec, others)
    if file is not None:
        note(model, load_checkpoint(model, file))
    note(model, settle(model))
    if isinstance(model, BertEmbedder):
        check_positions(model, dataset, spec)
    _check_answer(model, spec.name, dataset.test.asked.windows[:2])
    return model


def _check_answer(model: nn.Module, name: str, ids: torch.Tensor) -> None:
    """Refuse a model that does not return a vector a row."""
    try:
        with torch.inference_mode():
            answer = model.eval()(ids)
    except Exception as error:  # the user's code can raise anything
        raise ModelError(f"{name} fails on token ids int32 {list(ids.shape)}: {error}") from error
    shape = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
    if not isinstance(shape, list) or len(shape) != 2 or shape[0] != len(ids):
        raise ModelError(
            f"{name} returns {shape} for {len(ids)} texts, not embeddings [{len(ids)}, width]"
        )
    if not answer.isfinite().all():
        raise ModelError(f"{name} returns numbers that are not finite")


def embed(model: nn.Module, split: TextSplit, title: str = "embedding") -> torch.Tensor:
    """Embeddings float32 `[N, width]` of whole texts, of length 1."""
    model.eval()
    rows = text_inference.window_logits(model, split.windows, title=title)
    return mean_direction(rows, split.owner, len(split))


def in_int8(answers: Embedded) -> Embedded:
    """The embeddings as a client has them who asks for int8."""
    parts = []
    for part in (answers.queries, answers.documents):
        rows = torch.stack([torch.from_numpy(quantized(row.numpy())[0]) for row in part])
        parts.append(nn.functional.normalize(rows.float(), dim=1))
    return Embedded(*parts)


class TextEmbedding(Task[PairDataset, Embedded]):
    """Token ids int32 `[N, L]`, padded with 0, to embeddings `[N, width]`.

    Answers are those of whole texts: the mean of their windows' embeddings, of length 1.
    """

    stages: ClassVar[dict[str, Stage[PairDataset]]] = {
        "distill": Stage(embedding_stages.DistillStage, embedding_stages.run_distill),
        "vocabulary": Stage(VocabularyOptions, embedding_stages.run_vocabulary),
        "prune": Stage(embedding_stages.PruneStage, embedding_stages.run_prune),
        "quantize": Stage(QuantizeStage, embedding_stages.run_quantize),
    }
    exporter = "optimize.export.subjects.embedding"
    datasets: ClassVar[dict[str, str]] = {name: f"optimize.data.{name}:load" for name in DATASETS}
    architectures: ClassVar[dict[str, str]] = {
        "bert": "optimize.models.sources.bert:build_embedder",
        "huggingface": "optimize.models.sources.bert:build_embedder",
        "torchscript": "optimize.models.sources.torchscript:build",
    }

    def load_data(self, recipe: Recipe) -> PairDataset:
        spec = cut_by_own_tokenizer(recipe.data, resolve(recipe.model))
        return load_data(spec, recipe.folder, recipe.seed)

    def build_model(self, recipe: Recipe, data: PairDataset) -> nn.Module:
        return build_model(recipe.model, data, recipe.folder, recipe.checkpoint)

    def origins(self, recipe: Recipe, data: PairDataset) -> list[Path]:
        encoder = Named("", {"path": str(data.encoder)})  # the model's too, by default
        return [
            *super().origins(recipe, data), *dependencies.named_files(encoder, recipe.folder)
        ]  # fmt: skip

    def calls(self, data: PairDataset, batch_size: int) -> list[Inputs]:
        """Queries of the median length, padded as the handler pads them."""
        windows = data.test.asked.inputs
        sizes = lengths(windows)
        first = max(0, (len(windows) - batch_size) // 2)
        middle = sizes.argsort(stable=True)[first : first + batch_size]
        longest = bucket(int(sizes[middle].max()), data.max_length)
        return [(windows[middle, :longest],)]

    def predict(self, model: nn.Module, data: PairDataset, split: str, title: str) -> Embedded:
        cached = _ANSWERS.setdefault(model, {})
        if split not in cached:
            part = _retrieval(data, split)
            cached[split] = Embedded(
                embed(model, part.asked, title), embed(model, part.offered, title)
            )
        return cached[split]

    def metric(self, data: PairDataset) -> Metric:
        return retrieval.RECALL

    def score(self, answers: Embedded, data: PairDataset, split: str) -> dict[str, Any]:
        relevant = _retrieval(data, split).relevant
        in_bytes = retrieval.score(in_int8(answers), relevant)
        return {
            **retrieval.score(answers, relevant),
            "recall_at_10_of_int8_vectors": in_bytes[retrieval.RECALL.name],
        }

    def chance(self, data: PairDataset) -> float:
        """Ten documents drawn at random for the mean query."""
        right = len(data.test.relevant) / len(data.test)
        return min(1.0, retrieval.NEAREST * right / len(data.test.documents))

    def agreement(self, answers: Embedded, reference: Embedded) -> float:
        """The mean share of a query's ten nearest documents that both models name."""
        return retrieval.overlap(answers, reference)

    def examples(
        self, before: Embedded, after: Embedded, data: PairDataset, most: int
    ) -> list[Example]:
        return examples.of_queries(before, after, data, most)

    def card(self, recipe: Recipe, data: PairDataset) -> dict[str, Any]:
        return {
            "handler": "text_embedder",
            "labels": [],
            "input": {
                "max_length": data.max_length,
                "max_bytes": min(recipe.serving.max_bytes, MAX_BYTES),
            },
        }

    def files(self, recipe: Recipe, data: PairDataset) -> dict[str, Path]:
        return {"tokenizer.json": data.encoder / "tokenizer.json"}

    def samples(self, data: PairDataset, answers: Embedded) -> list[Sample]:
        """Test queries that find a right document first, each with it and others to rank."""
        test = data.test
        places = retrieval.ranks(answers, test.relevant)
        first = retrieval.nearest(answers, 1)[:, 0].tolist()
        found = (places == 1).nonzero()[:, 0].tolist()[:SAMPLES]
        samples = []
        for number, query in enumerate(found):
            others = [first[found[(number + k) % len(found)]] for k in range(1, OFFERED)]
            own = set(test.relevant[test.relevant[:, 0] == query, 1].tolist())
            offered = [first[query], *dict.fromkeys(i for i in others if i not in own)]
            # By name, so that the right one is not always the first.
            documents = sorted(test.documents[i] for i in offered)
            asked = {"text": test.queries[query], "documents": documents}
            content = json.dumps(asked, ensure_ascii=False).encode("utf-8")
            samples.append(Sample(f"query_{number}.json", content, test.documents[first[query]]))
        return samples


def _retrieval(data: PairDataset, name: str) -> Retrieval:
    """A held-out split. Raises DataError for another name."""
    part = getattr(data, name, None)
    if not isinstance(part, Retrieval):
        raise DataError(f"data set {data.name} has no held-out split {name}")
    return part
