"""Text classification: reviews or a user's own files, BERT encoders, and their metrics."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from optimize.data import text_files
from optimize.data.corpus import TextDataset
from optimize.data.dataset import Sample
from optimize.data.tables import SUFFIXES
from optimize.errors import DataError, ModelError, RecipeError
from optimize.evaluation import accuracy, calibration, chance, text_inference, text_metrics
from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.models.architectures.bert import BertClassifier
from optimize.models.check import check
from optimize.models.notes import note
from optimize.models.parametrized import settle
from optimize.models.sources import bert, dependencies, torchscript
from optimize.models.sources.names import resolve
from optimize.models.sources.user_file import load_function
from optimize.models.weights import load_checkpoint
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import examples, named, text_stages
from optimize.tasks.base import Inputs, Stage, Task
from optimize.tasks.encoder_stages import QuantizeStage
from optimize.tasks.encoders import (
    check_positions,
    check_tokenizer,
    cut_by_own_tokenizer,
    in_folder,
)
from optimize.tasks.splits import with_validation
from optimize.tasks.text_stages import split_of
from optimize.training.finetune import FineTuneOptions

MAX_BYTES = 1_048_576
DATASETS = ("movie_reviews", "text_files")
TAKEN = (
    "text_files: TABLE (CSV, TSV, JSON lines or Parquet of texts and labels, or a Hugging Face "
    "datasets folder), or path/to/file.py:function"
)
METRICS = {
    metric.name: metric
    for metric in (ACCURACY, Metric("macro_f1", "Macro F1"), Metric("auroc", "AUROC"))
}

# Answers of finished models, which take minutes and are needed more than once.
_ANSWERS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def load_data(spec: Named, folder: Path, seed: int) -> TextDataset:
    """Labelled texts: `movie_reviews`, `text_files: {path: ...}`, see these modules, or what
    `file.py:function` returns, see `text_files.of_mapping`.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: no such data set or option.
    """
    spec = named.absolute(_resolve(spec, folder), folder, "path", "encoder")
    if ":" in spec.name:
        options = {k: v for k, v in spec.options.items() if k in text_files.DATA_OPTIONS}
        own = {k: v for k, v in spec.options.items() if k not in options}
        function = load_function(spec.name, folder)
        found = named.call_users(function, dataclasses.replace(spec, options=own), DataError)
        return text_files.of_mapping(found, spec.name, seed=seed, **options)
    if spec.name not in DATASETS:
        raise RecipeError(
            f"no data set {spec.name!r}; there are {', '.join(DATASETS)}: {TAKEN}", *spec.where
        )
    loader = importlib.import_module(f"optimize.data.{spec.name}").load
    dataset: TextDataset = named.call(loader, spec, seed=seed)
    return dataset


def _resolve(spec: Named, folder: Path) -> Named:
    """A bare path as `text_files`, and `{text_files: FILE}` as its `path`."""
    if ":" not in spec.name and spec.name not in DATASETS:
        place = folder / Path(spec.name).expanduser()
        if place.suffix.lower() in SUFFIXES or ("/" in spec.name and place.is_dir()):
            return Named("text_files", {"path": spec.name, **spec.options}, spec.where)
    return named.with_path(spec) if spec.name in DATASETS else spec


def build_model(
    spec: Named,
    dataset: TextDataset,
    folder: Path,
    checkpoint: str | None = None,
    new_head: bool = True,
) -> nn.Module:
    """The model that `spec` names: a Hugging Face folder of BERT, by its own name or as
    `bert: {path: FOLDER}`, `file.py:build`, or a TorchScript file.

    The folder defaults to that of the data's tokenizer. A user's function returns a module from
    token ids to logits, or transformers' `BertForSequenceClassification`. `new_head` says whether
    a trained head for other labels may be replaced.

    Raises:
        ModelError: it cannot be built, or fits neither checkpoint nor data nor tokenizer.
        RecipeError: no such architecture or option, or it has fewer positions than the data's
            windows have tokens.
    """
    spec = resolve(spec)
    file = None if checkpoint is None else folder / Path(checkpoint).expanduser()
    offered: dict[str, Any] = {"classes": len(dataset.labels), "labels": list(dataset.labels)}
    model: nn.Module
    if ":" in spec.name:
        function = load_function(spec.name, folder)
        offered["num_classes"] = offered["classes"]
        built = named.call_users(function, spec, ModelError, **offered)
        if not isinstance(built, nn.Module):
            raise ModelError(f"{spec.name} returned {type(built).__name__}, not an nn.Module")
        model = bert.of_transformers(built, dataset.labels, spec.name, new_head)
    elif spec.name in ("bert", "huggingface"):
        spec = in_folder(spec, dataset.encoder, folder)
        check_tokenizer(Path(spec.options["path"]), dataset.encoder)
        model = named.call(
            bert.build, spec, **offered, checkpoint=file, new_head=new_head
        )  # takes the checkpoint in: its names are Hugging Face's, or ours
        file = None
    elif spec.name == "torchscript":
        model = named.call(torchscript.build, spec, folder=folder)
    else:
        others = ["bert", "path/to/file.py:build", "a TorchScript file", "a Hugging Face folder"]
        raise named.unknown("architecture", spec, others)
    if file is not None:
        note(model, load_checkpoint(model, file))
    note(model, settle(model))
    if isinstance(model, BertClassifier):
        check_positions(model, dataset, spec)
    check(model, spec.name, dataset.test.inputs[:2], len(dataset.labels), "token ids")
    return model


def score(answers: Tensor, targets: Tensor, labels: int) -> dict[str, Any]:
    """Accuracy with its interval, per class; macro F1, AUROC, calibration error.

    Args:
        answers: logits `[N, classes]`.
        targets: int64 `[N]`, or in multi-label data float32 `[N, classes]`.
        labels: how many classes there are.
    """
    multi_label = targets.is_floating_point()
    predicted = text_metrics.predicted_labels(answers, multi_label)
    actual = text_metrics.target_labels(targets, labels)
    per_class = [
        float(predicted[actual[:, i], i].double().mean()) if actual[:, i].any() else None
        for i in range(labels)
    ]
    return {
        **text_metrics.accuracy(predicted, actual),
        "per_class": per_class,
        "macro_f1": text_metrics.macro_f1(predicted, actual),
        "auroc": text_metrics.auroc(answers if multi_label else answers.softmax(1), actual),
        "ece": calibration.reliability(*calibration.confidence(answers, targets))["ece"],
    }


class TextClassification(Task[TextDataset, Tensor]):
    """Token ids int32 `[N, L]`, padded with 0, to logits `[N, classes]`.

    Answers are those of whole texts: the mean of their windows' logits.
    """

    stages: ClassVar[dict[str, Stage[TextDataset]]] = {
        "train": Stage(FineTuneOptions, text_stages.run_train),
        "distill": Stage(text_stages.DistillStage, text_stages.run_distill),
        "vocabulary": Stage(VocabularyOptions, text_stages.run_vocabulary),
        "prune": Stage(text_stages.PruneStage, text_stages.run_prune),
        "quantize": Stage(QuantizeStage, text_stages.run_quantize),
    }
    exporter = "optimize.export.subjects.text"
    datasets: ClassVar[dict[str, str]] = {name: f"optimize.data.{name}:load" for name in DATASETS}
    architectures: ClassVar[dict[str, str]] = {
        "bert": "optimize.models.sources.bert:build",
        "huggingface": "optimize.models.sources.bert:build",
        "torchscript": "optimize.models.sources.torchscript:build",
    }

    def load_data(self, recipe: Recipe) -> TextDataset:
        spec = cut_by_own_tokenizer(recipe.data, resolve(recipe.model))
        return load_data(spec, recipe.folder, recipe.seed)

    def build_model(self, recipe: Recipe, data: TextDataset) -> nn.Module:
        trains = any(stage.kind == "train" for stage in recipe.stages)
        return build_model(recipe.model, data, recipe.folder, recipe.checkpoint, trains)

    def origins(self, recipe: Recipe, data: TextDataset) -> list[Path]:
        encoder = Named("", {"path": str(data.encoder)})  # the model's too, by default
        return [
            *super().origins(recipe, data), *dependencies.named_files(encoder, recipe.folder)
        ]  # fmt: skip

    def with_validation(self, data: TextDataset, seed: int) -> TextDataset:
        return with_validation(data, seed)

    def calls(self, data: TextDataset, batch_size: int) -> list[Inputs]:
        return [(data.test.inputs[:batch_size],)]

    def predict(self, model: nn.Module, data: TextDataset, split: str, title: str) -> Tensor:
        cached = _ANSWERS.setdefault(model, {})
        if split not in cached:
            cached[split] = text_inference.predict(model, split_of(data, split), title)
        return cached[split]

    def metric(self, data: TextDataset) -> Metric:
        return METRICS[data.metric]

    def score(self, answers: Tensor, data: TextDataset, split: str) -> dict[str, Any]:
        part = split_of(data, split)
        predicted = text_metrics.predicted_labels(answers, data.multi_label)
        actual = text_metrics.target_labels(part.targets, len(data.labels))
        sources = {}
        for name in sorted(set(part.sources)):
            chosen = torch.tensor([source == name for source in part.sources])
            sources[name] = text_metrics.accuracy(predicted[chosen], actual[chosen])
        return {**score(answers, part.targets, len(data.labels)), "per_source": sources}

    def chance(self, data: TextDataset) -> float:
        targets = data.test.targets
        if self.metric(data) is ACCURACY:
            return chance.majority(targets)
        labels = text_metrics.target_labels(targets, len(data.labels))
        return chance.auroc(labels) if data.metric == "auroc" else chance.macro_f1(labels)

    def agreement(self, answers: Tensor, reference: Tensor) -> float:
        return accuracy.agreement(answers, reference)

    def confidence(self, answers: Tensor, data: TextDataset) -> tuple[Tensor, Tensor]:
        return calibration.confidence(answers, data.test.targets)

    def examples(
        self, before: Tensor, after: Tensor, data: TextDataset, most: int
    ) -> list[Example]:
        return examples.of_texts(before, after, data, most)

    def card(self, recipe: Recipe, data: TextDataset) -> dict[str, Any]:
        return {
            "handler": "text_classifier",
            "labels": data.labels,
            "input": {
                **data.card_input,
                "multi_label": data.multi_label,
                "max_bytes": min(recipe.serving.max_bytes, MAX_BYTES),
            },
        }

    def files(self, recipe: Recipe, data: TextDataset) -> dict[str, Path]:
        return {"tokenizer.json": data.encoder / "tokenizer.json"}

    def samples(self, data: TextDataset, answers: Tensor) -> list[Sample]:
        return data.samples
