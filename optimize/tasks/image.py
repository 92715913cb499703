"""Image classification: data sets, models and top-1 accuracy."""

import copy
import dataclasses
import importlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset, Sample
from optimize.data.image_input import ImageInput
from optimize.errors import ModelError
from optimize.evaluation import accuracy, calibration, chance
from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.models.check import check
from optimize.models.normalized import normalized
from optimize.models.notes import note
from optimize.models.parametrized import settle
from optimize.models.sources import huggingface
from optimize.models.sources.names import resolve
from optimize.models.sources.user_file import load_function
from optimize.models.weights import load_checkpoint
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import examples, image_data, image_served, image_stages, named
from optimize.tasks.base import Inputs, Stage, Task
from optimize.tasks.splits import split_of, with_validation
from optimize.training.fit import TrainOptions, fit

MODELS = {
    "archive": "sources.archive",
    "convnet": "architectures.convnet",
    "efficientnet_lite": "architectures.efficientnet_lite",
    "resnet": "architectures.resnet",
    "huggingface": "sources.huggingface",
    "timm": "sources.timm",
    "torchscript": "sources.torchscript",
}


def build_model(
    spec: Named,
    dataset: Dataset,
    folder: Path,
    checkpoint: str | None = None,
    new_head: bool = True,
) -> nn.Module:
    """Build the model `spec` names: one of `MODELS`, or `file.py:build`.

    `new_head` says whether a trained head for other labels may be replaced.

    Raises:
        ModelError: it cannot be built, or the checkpoint does not fit.
        RecipeError: no such architecture or option.
    """
    offered: dict[str, Any] = {
        "classes": len(dataset.labels),
        "channels": dataset.test.inputs.shape[1],
        "labels": list(dataset.labels),
    }
    spec = resolve(spec)
    model: nn.Module
    if ":" in spec.name:
        function = load_function(spec.name, folder)
        offered["num_classes"] = offered["classes"]
        model = named.call_users(function, spec, ModelError, **offered)
    elif spec.name in MODELS:
        function = importlib.import_module(f"optimize.models.{MODELS[spec.name]}").build
        offered.update(folder=folder, new_head=new_head or checkpoint is not None)
        model = named.call(function, spec, **offered)
    else:
        others = ["path/to/file.py:build", "a TorchScript file", "a Hugging Face folder"]
        raise named.unknown("architecture", spec, [*sorted(MODELS), *others])
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec.name} returned {type(model).__name__}, not an nn.Module")
    if checkpoint is not None:
        note(model, load_checkpoint(model, folder / Path(checkpoint).expanduser()))
    note(model, settle(model))
    if dataset.normalization is not None:
        model = normalized(model, *dataset.normalization)
    check(model, spec.name, dataset.test.inputs[:2], len(dataset.labels))
    return model


def score(answers: Tensor, targets: Tensor) -> dict[str, Any]:
    """Top-1 accuracy with samples, Wilson interval and per-class accuracy.

    Args:
        answers: logits `[N, classes]`.
        targets: int64 `[N]`.
    """
    measured = accuracy.accuracy(answers, targets)
    return {
        ACCURACY.name: measured.value,
        "samples": measured.samples,
        "ci95": list(measured.ci95),
        "per_class": measured.per_class,
    }


class ImageClassification(Task[Dataset, Tensor]):
    """uint8 pixels `[N, C, H, W]` to logits `[N, classes]`."""

    stages: ClassVar[dict[str, Stage[Dataset]]] = {
        "train": Stage(TrainOptions, image_stages.run_train),
        "distill": Stage(image_stages.DistillStage, image_stages.distill_into(build_model)),
        "prune": Stage(image_stages.PruneStage, image_stages.run_prune),
        "quantize": Stage(image_stages.QuantizeStage, image_stages.run_quantize),
    }
    exporter = "optimize.export.subjects.image"
    input_options = ImageInput
    datasets: ClassVar[dict[str, str]] = {
        name: f"optimize.data.{name}:load" for name in image_data.DATASETS
    }
    architectures: ClassVar[dict[str, str]] = {
        name: f"optimize.models.{module}:build" for name, module in MODELS.items()
    }

    def load_data(self, recipe: Recipe) -> Dataset:
        return image_data.load(recipe)

    def build_model(self, recipe: Recipe, data: Dataset) -> nn.Module:
        trains = any(stage.kind == "train" for stage in recipe.stages)
        return build_model(recipe.model, data, recipe.folder, recipe.checkpoint, trains)

    def has_random_weights(self, recipe: Recipe) -> bool:
        spec = resolve(recipe.model)
        if recipe.checkpoint is not None:
            return False
        if spec.name == "timm":
            return not spec.options.get("pretrained") and "checkpoint_path" not in spec.options
        if spec.name == "huggingface":
            return huggingface.has_no_weights(str(spec.options.get("name", "")), recipe.folder)
        return spec.name in ("convnet", "resnet")

    def with_validation(self, data: Dataset, seed: int) -> Dataset:
        return with_validation(data, seed)

    def calls(self, data: Dataset, batch_size: int) -> list[Inputs]:
        return [(data.test.inputs[:batch_size],)]

    def predict(self, model: nn.Module, data: Dataset, split: str, title: str) -> Tensor:
        if split == "agreement" and data.agreement is not None:
            return accuracy.predict(model, data.agreement, title=title)
        return accuracy.predict(model, split_of(data, split).inputs, title=title)

    def metric(self, data: Dataset) -> Metric:
        return ACCURACY

    def score(self, answers: Tensor, data: Dataset, split: str) -> dict[str, Any]:
        return score(answers, split_of(data, split).targets)

    def chance(self, data: Dataset) -> float:
        return chance.majority(data.test.targets)

    def agreement(self, answers: Tensor, reference: Tensor) -> float:
        return accuracy.agreement(answers, reference)

    def confidence(self, answers: Tensor, data: Dataset) -> tuple[Tensor, Tensor]:
        return calibration.confidence(answers, data.test.targets)

    def examples(self, before: Tensor, after: Tensor, data: Dataset, most: int) -> list[Example]:
        return examples.of_pictures(before, after, data, most)

    def card(self, recipe: Recipe, data: Dataset) -> dict[str, Any]:
        return {
            "handler": "image_classifier",
            "labels": data.labels,
            "input": {
                **data.card_input,
                "max_pixels": recipe.serving.max_pixels,
                "max_bytes": recipe.serving.max_bytes,
            },
        }

    def from_files(self, folder: Path, data: Dataset, answers: Tensor) -> dict[str, Any] | None:
        return image_served.measure(folder, data, answers)

    def samples(self, data: Dataset, answers: Tensor) -> list[Sample]:
        return data.samples

    def controls(self, recipe: Recipe, data: Dataset, final: nn.Module) -> dict[str, nn.Module]:
        """Two float models trained on labels only, to show what distillation and pruning gain.

        `undistilled` has the student's architecture and the epochs of the distillation; `scratch`
        has the final (pruned) architecture and the epochs of distillation and recovery together.
        """
        split = split_of(data, "train")
        stage = next((s for s in recipe.stages if s.kind == "distill"), None)
        if stage is None:
            return {}
        options: image_stages.DistillStage = stage.options
        own = ("average", "patience", "precision", "checkpoint_seconds", "label_smoothing", "flip")
        taken = [f.name for f in dataclasses.fields(TrainOptions) if f.name not in own]
        plain = TrainOptions(**{name: getattr(options, name) for name in taken})
        torch.manual_seed(recipe.seed)
        student = build_model(options.student, data, recipe.folder)
        title = "control: student without a teacher"
        undistilled = fit(student, split, plain, seed=recipe.seed, title=title)
        extra = sum(
            s.options.recover.epochs
            for s in recipe.stages
            if s.kind == "prune" and s.options.recover
        )
        scratch = copy.deepcopy(final)
        torch.manual_seed(recipe.seed)
        for module in scratch.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        longer = dataclasses.replace(plain, epochs=plain.epochs + extra)
        title = "control: final shape from scratch"
        return {
            "undistilled": undistilled,
            "scratch": fit(scratch, split, longer, seed=recipe.seed, title=title),
        }
