"""Image classification: data sets, models, top-1 accuracy, and its stages."""

import copy
import dataclasses
import importlib
import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data.dataset import Dataset, Split
from optimize.errors import DataError, ModelError, RecipeError
from optimize.evaluation import accuracy
from optimize.models.check import check
from optimize.models.sources.names import resolve
from optimize.models.sources.user_file import load_function
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import image_stages
from optimize.tasks.base import Context, Stage, State
from optimize.tasks.image_stages import split_of
from optimize.training.distillation import DistillOptions
from optimize.training.fit import TrainOptions, fit

METRIC = "accuracy"
HIGHER_IS_BETTER = True
DATASETS = ("fashion_mnist", "imagenet_samples")
MODELS = {
    "convnet": "architectures.convnet",
    "efficientnet_lite": "architectures.efficientnet_lite",
    "resnet": "architectures.resnet",
    "huggingface": "sources.huggingface",
    "timm": "sources.timm",
    "torchscript": "sources.torchscript",
}


@dataclass(frozen=True)
class DistillStage(DistillOptions):
    """Distil the current model into `student`, or into a copy of its own shape."""

    student: Named = field(default_factory=lambda: Named("convnet"))


def _call(function: Any, spec: Named, **given: Any) -> Any:
    """Call a user-named function with the recipe's options, checked against its signature."""
    signature = inspect.signature(function)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if not open_ended:
        for name in spec.options:
            if name not in signature.parameters:
                known = ", ".join(k for k in signature.parameters if k not in given)
                message = f"{spec.name} has no option {name!r}; it takes {known}"
                raise RecipeError(message, *spec.where)
        given = {k: v for k, v in given.items() if k in signature.parameters}
    try:
        return function(**{**given, **spec.options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name}: {error}", *spec.where) from error


def load_data(spec: Named, folder: Path, seed: int) -> Dataset:
    """Load the data set `spec` names: a module of `optimize.data`, or `file.py:function`.

    A function of the user's returns a `Dataset`, or a mapping with `test` and optionally
    `train`, `validation` (pairs of uint8 images `[N, C, H, W]` and labels `[N]`) and `labels`.

    Raises:
        DataError: the data is absent or malformed.
        RecipeError: no such data set or option.
    """
    if ":" in spec.name:
        function = load_function(spec.name, folder)
        found = _call(function, spec)
        return found if isinstance(found, Dataset) else _from_mapping(spec.name, found)
    if spec.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise RecipeError(f"no data set {spec.name!r}; there are {known}", *spec.where)
    loader = importlib.import_module(f"optimize.data.{spec.name}").load
    loaded: Dataset = _call(loader, spec, seed=seed)
    return loaded


def _from_mapping(name: str, found: Any) -> Dataset:
    """Check what a user's loader returned and make it a `Dataset`."""
    if not isinstance(found, dict) or "test" not in found:
        raise DataError(f"{name} must return a mapping with at least 'test': (images, labels)")
    splits: dict[str, Split] = {}
    for key in ("train", "validation", "test"):
        if found.get(key) is None:
            continue
        try:
            images, targets = (torch.as_tensor(part) for part in found[key])
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: {key} must be a pair (images, labels): {error}") from error
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(targets):
            raise DataError(
                f"{name}: {key} must be uint8 images [N, C, H, W] with as many labels, not "
                f"{images.dtype} {list(images.shape)} with {len(targets)}"
            )
        splits[key] = Split(images, targets.long())
    classes = int(max(int(s.targets.max()) for s in splits.values())) + 1
    labels = [str(label) for label in found.get("labels") or range(classes)]
    if len(labels) < classes:
        raise DataError(f"{name}: {len(labels)} labels for classes up to {classes - 1}")
    channels, height, width = splits["test"].inputs.shape[1:]
    return Dataset(
        name=name,
        source=f"loader {name}",
        labels=labels,
        card_input={"size": [height, width], "channels": channels, "resize": min(height, width)},
        test=splits["test"],
        train=splits.get("train"),
        validation=splits.get("validation"),
    )


def build_model(
    spec: Named, dataset: Dataset, folder: Path, checkpoint: str | None = None
) -> nn.Module:
    """Build the model `spec` names: a module of `optimize.models`, or `file.py:build`.

    Raises:
        ModelError: it cannot be built, or the checkpoint does not fit.
        RecipeError: no such architecture or option.
    """
    given: dict[str, Any] = {
        "classes": len(dataset.labels),
        "channels": dataset.test.inputs.shape[1],
    }
    spec = resolve(spec)
    if ":" in spec.name:
        function = load_function(spec.name, folder)
    elif spec.name in MODELS:
        function = importlib.import_module(f"optimize.models.{MODELS[spec.name]}").build
        given["folder"] = folder
    else:
        known = ", ".join(sorted(MODELS))
        raise RecipeError(
            f"no architecture {spec.name!r}; there are {known}, path/to/file.py:build, a "
            "TorchScript file and a Hugging Face folder",
            *spec.where,
        )
    model = _call(function, spec, **given)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec.name} returned {type(model).__name__}, not an nn.Module")
    if checkpoint is not None:
        path = folder / checkpoint
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(weights.get("state_dict", weights))
        except Exception as error:  # torch.load and load_state_dict raise many kinds
            raise ModelError(f"checkpoint {path} does not fit: {error}") from error
    check(model, spec.name, dataset.test.inputs[:2], len(dataset.labels))
    return model


def predict(model: nn.Module, dataset: Dataset, split: str, title: str) -> Tensor:
    """Logits `[N, classes]` for a split, or for the inputs that agreement is measured on."""
    if split == "agreement" and dataset.agreement is not None:
        return accuracy.predict(model, dataset.agreement, title=title)
    return accuracy.predict(model, split_of(dataset, split).inputs, title=title)


def score(answers: Tensor, dataset: Dataset, split: str) -> dict[str, Any]:
    """Top-1 accuracy with samples, Wilson interval and per-class accuracy."""
    found = accuracy.accuracy(answers, split_of(dataset, split).targets)
    return {
        "accuracy": found.value,
        "samples": found.samples,
        "ci95": list(found.ci95),
        "per_class": found.per_class,
    }


agreement = accuracy.agreement
example = image_stages.example


def card(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Handler, labels and input of the model card."""
    return {
        "handler": "image_classifier",
        "labels": dataset.labels,
        "input": {
            **dataset.card_input,
            "max_pixels": recipe.serving.max_pixels,
            "max_bytes": recipe.serving.max_bytes,
        },
    }


def _distill(state: State, options: DistillStage, context: Context) -> State:
    torch.manual_seed(context.seed)
    student = build_model(options.student, context.dataset, context.folder)
    return image_stages.run_distill(state, options, context, student)


STAGES: dict[str, Stage] = {
    "train": Stage(TrainOptions, image_stages.run_train),
    "distill": Stage(DistillStage, _distill),
    "prune": Stage(image_stages.PruneStage, image_stages.run_prune),
    "quantize": Stage(image_stages.QuantizeStage, image_stages.run_quantize),
}


def controls(recipe: Recipe, dataset: Dataset, final: nn.Module) -> dict[str, nn.Module]:
    """Two float models trained on the labels alone, to show what the chain is worth.

    `undistilled` is the student's shape with as many epochs as the distillation had;
    `scratch` is the final (pruned) shape with the epochs of distillation and recovery together.
    """
    split = split_of(dataset, "train")
    found: dict[str, nn.Module] = {}
    stage = next((s for s in recipe.stages if s.kind == "distill"), None)
    if stage is None:
        return found
    options: DistillStage = stage.options
    plain = TrainOptions(
        options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    torch.manual_seed(recipe.seed)
    student = build_model(options.student, dataset, recipe.folder)
    found["undistilled"] = fit(
        student, split, plain, seed=recipe.seed, title="control: student without a teacher"
    )
    extra = sum(
        s.options.recover.epochs for s in recipe.stages if s.kind == "prune" and s.options.recover
    )
    scratch = copy.deepcopy(final)
    torch.manual_seed(recipe.seed)
    for module in scratch.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    longer = dataclasses.replace(plain, epochs=plain.epochs + extra)
    found["scratch"] = fit(
        scratch, split, longer, seed=recipe.seed, title="control: final shape from scratch"
    )
    return found
