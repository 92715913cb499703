"""Text classification: reviews or a user's own files, BERT encoders, and their metrics."""

import importlib
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from optimize.data.corpus import TextDataset
from optimize.data.dataset import Sample
from optimize.errors import ModelError, RecipeError
from optimize.evaluation import accuracy, chance, text_inference, text_metrics
from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.models.architectures import bert
from optimize.models.sources import dependencies
from optimize.models.weights import load_checkpoint
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import named, text_stages
from optimize.tasks.base import Inputs, Stage, Task
from optimize.tasks.splits import with_validation
from optimize.tasks.text_stages import split_of
from optimize.training.finetune import FineTuneOptions

MAX_BYTES = 1_048_576
DATASETS = ("movie_reviews", "text_files")
METRICS = {
    metric.name: metric
    for metric in (ACCURACY, Metric("macro_f1", "Macro F1"), Metric("auroc", "AUROC"))
}

# Answers of finished models, which take minutes and are needed more than once.
_ANSWERS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def load_data(spec: Named, folder: Path, seed: int) -> TextDataset:
    """Labelled texts: `movie_reviews`, or `text_files: {path: ...}`; see these modules.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: no such data set or option.
    """
    if spec.name not in DATASETS:
        raise named.unknown("data set", spec, list(DATASETS))
    loader = importlib.import_module(f"optimize.data.{spec.name}").load
    dataset: TextDataset = named.call(
        loader, named.absolute(spec, folder, "path", "encoder"), seed=seed
    )
    return dataset


def build_model(
    spec: Named, dataset: TextDataset, folder: Path, checkpoint: str | None = None
) -> bert.BertClassifier:
    """An encoder with a head for the data's labels; a Hugging Face folder's weights.

    `path` defaults to the folder of the data's tokenizer.

    Raises:
        ModelError: it does not fit the checkpoint, or the data's tokenizer.
        RecipeError: no such architecture or option, or it has fewer positions than the data's
            windows have tokens.
    """
    if spec.name != "bert":
        raise named.unknown("architecture", spec, ["bert"])
    spec = named.absolute(spec, folder, "path")
    model = named.call(bert.build, spec, classes=len(dataset.labels), path=str(dataset.encoder))
    rows = model.embeddings.word.num_embeddings
    if rows < dataset.vocabulary:
        raise ModelError(
            f"the tokenizer of {dataset.encoder} has {dataset.vocabulary} tokens, the model "
            f"{rows}: name the model's folder as data.encoder too"
        )
    positions = model.embeddings.position.num_embeddings
    if dataset.max_length > positions:
        raise RecipeError(
            f"data's max_length is {dataset.max_length} tokens, and this encoder has {positions} "
            f"positions: set max_length to {positions} or less",
            *spec.where,
        )
    if checkpoint is not None:
        load_checkpoint(model, folder / checkpoint)
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
        "ece": text_metrics.expected_calibration_error(answers, targets),
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
        "quantize": Stage(text_stages.QuantizeStage, text_stages.run_quantize),
    }
    exporter = "optimize.export.subjects.text"

    def load_data(self, recipe: Recipe) -> TextDataset:
        return load_data(recipe.data, recipe.folder, recipe.seed)

    def build_model(self, recipe: Recipe, data: TextDataset) -> nn.Module:
        return build_model(recipe.model, data, recipe.folder, recipe.checkpoint)

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
