"""Text classification: reviews or a user's own files, BERT encoders, and their stages."""

import dataclasses
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize import evaluate
from optimize.errors import DataError, ModelError, RecipeError
from optimize.models import bert
from optimize.recipe import Named, Recipe
from optimize.tasks import Context, Stage, State
from optimize.text import calibration, inference
from optimize.text.corpus import TextDataset, TextSplit
from optimize.text.training import FineTuneOptions, fit

METRIC = "accuracy"
HIGHER_IS_BETTER = True
DATASETS = ("movie_reviews", "text_files")


def _call(function: Any, spec: Named, **given: Any) -> Any:
    """Call with the recipe's options, checked against the signature; the options win."""
    known = inspect.signature(function).parameters
    for name in spec.options:
        if name not in known:
            message = f"{spec.name} has no option {name!r}; it takes {', '.join(known)}"
            raise RecipeError(message, *spec.where)
    try:
        return function(**{**given, **spec.options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name}: {error}", *spec.where) from error


def _absolute(spec: Named, folder: Path, names: tuple[str, ...]) -> Named:
    """Paths among the options start at the recipe's folder."""
    options = dict(spec.options)
    for name in names:
        if isinstance(options.get(name), str):
            options[name] = str(folder / Path(options[name]).expanduser())
    return dataclasses.replace(spec, options=options)


def load_data(spec: Named, folder: Path, seed: int) -> TextDataset:
    """Labelled texts: `movie_reviews`, or `text_files: {path: ...}`; see these modules."""
    if spec.name not in DATASETS:
        known = ", ".join(DATASETS)
        raise RecipeError(f"no data set {spec.name!r}; there are {known}", *spec.where)
    loader = importlib.import_module(f"optimize.data.{spec.name}").load
    found: TextDataset = _call(loader, _absolute(spec, folder, ("path", "encoder")), seed=seed)
    return found


def build_model(
    spec: Named, dataset: TextDataset, folder: Path, checkpoint: str | None = None
) -> nn.Module:
    """An encoder with a head for the data's labels; a Hugging Face folder's weights.

    Without `path` the folder is the one whose tokenizer cut the data.

    Raises:
        ModelError: it does not fit the checkpoint, or the data's tokenizer.
    """
    if spec.name != "bert":
        raise RecipeError(f"no architecture {spec.name!r}; there is bert", *spec.where)
    spec = _absolute(spec, folder, ("path",))
    given = {"classes": len(dataset.labels), "path": str(dataset.encoder)}
    model: bert.BertClassifier = _call(bert.build, spec, **given)
    if model.embeddings.word.num_embeddings < dataset.vocabulary:
        raise ModelError(
            f"the tokenizer of {dataset.encoder} has {dataset.vocabulary} tokens, the model "
            f"{model.embeddings.word.num_embeddings}: name the model's folder as data.encoder too"
        )
    if checkpoint is not None:
        path = folder / checkpoint
        try:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(weights.get("state_dict", weights))
        except Exception as error:  # torch.load and load_state_dict raise many kinds
            raise ModelError(f"checkpoint {path} does not fit: {error}") from error
    return model


def example(dataset: TextDataset) -> Tensor:
    """One real window int32 `[1, L]`."""
    return dataset.test.inputs[:1]


def _split(dataset: TextDataset, name: str) -> TextSplit:
    found = getattr(dataset, name)
    if not isinstance(found, TextSplit):
        raise DataError(f"data set {dataset.name} has no {name} split, and this recipe needs one")
    return found


def predict(model: nn.Module, dataset: TextDataset, split: str, title: str) -> Tensor:
    """Logits float32 `[N, classes]` of whole texts."""
    return inference.predict(model, _split(dataset, split), title)


def score(answers: Tensor, dataset: TextDataset, split: str) -> dict[str, Any]:
    """Accuracy, its interval, per class and per source, and the calibration error."""
    part = _split(dataset, split)
    found = evaluate.accuracy(answers, part.targets)
    sources = {}
    for name in sorted(set(part.sources)):
        chosen = torch.tensor([source == name for source in part.sources])
        of_source = evaluate.accuracy(answers[chosen], part.targets[chosen])
        sources[name] = {
            "accuracy": of_source.value,
            "samples": of_source.samples,
            "ci95": list(of_source.ci95),
        }
    return {
        "accuracy": found.value,
        "samples": found.samples,
        "ci95": list(found.ci95),
        "per_class": found.per_class,
        "per_source": sources,
        "ece": calibration.expected_calibration_error(answers, part.targets),
    }


agreement = evaluate.agreement


def card(recipe: Recipe, dataset: TextDataset) -> dict[str, Any]:
    """Handler, labels and input of the model card."""
    return {
        "handler": "text_classifier",
        "labels": dataset.labels,
        "input": {**dataset.card_input, "max_bytes": recipe.serving.max_bytes},
    }


def _calibrated(model: bert.BertClassifier, dataset: TextDataset) -> bert.BertClassifier:
    """Fit the temperature on the validation split and put it into the head."""
    split = _split(dataset, "validation")
    logits = inference.predict(model, split, "calibrating")
    temperature = calibration.fit_temperature(logits, split.targets)
    with torch.no_grad():
        model.head.weight /= temperature
        model.head.bias /= temperature
    return model


def _train(state: State, options: FineTuneOptions, context: Context) -> State:
    dataset: Any = context.dataset
    model: Any = state.model
    fit(model, _split(dataset, "train"), options, seed=context.seed, title=context.title)
    model = _calibrated(model, dataset)
    return State(model, model, model)


STAGES: dict[str, Stage] = {
    "train": Stage(FineTuneOptions, _train),
}


def controls(
    recipe: Recipe, dataset: TextDataset, final: nn.Module
) -> dict[str, nn.Module]:
    """None yet."""
    return {}
