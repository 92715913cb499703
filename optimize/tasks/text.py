"""Text classification: reviews or a user's own files, BERT encoders, and their stages."""

import copy
import dataclasses
import importlib
import inspect
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from optimize.data.corpus import TextDataset, TextSplit, load_tokenizer
from optimize.errors import DataError, ModelError, RecipeError
from optimize.evaluation import accuracy, text_inference, text_metrics
from optimize.models.architectures import bert
from optimize.pruning import transformer, vocabulary
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.quantization.text import quantize
from optimize.recipe.schema import Named, Recipe, explored
from optimize.tasks.base import Context, Stage, State
from optimize.training import transfer
from optimize.training.finetune import FineTuneOptions, against_labels, fit
from optimize.training.temperature import fit_temperature
from optimize.training.transfer import TransferOptions
from optimize.utils.files import write

METRIC = "accuracy"
HIGHER_IS_BETTER = True
MAX_BYTES = 1_048_576
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


# A finished model's answers: the pipeline asks for the original's twice, and they take minutes.
_ANSWERS: WeakKeyDictionary[nn.Module, dict[str, Tensor]] = WeakKeyDictionary()


def predict(model: nn.Module, dataset: TextDataset, split: str, title: str) -> Tensor:
    """Logits float32 `[N, classes]` of whole texts."""
    known = _ANSWERS.setdefault(model, {})
    if split not in known:
        known[split] = text_inference.predict(model, _split(dataset, split), title)
    return known[split]


def score(answers: Tensor, dataset: TextDataset, split: str) -> dict[str, Any]:
    """Accuracy with its interval, per class and per source; macro F1, AUROC, calibration error.

    `metric` names the one that the recipe's gate looks at.
    """
    part = _split(dataset, split)
    given = text_metrics.said(answers, dataset.multi_label)
    right = text_metrics.truth(part.targets, len(dataset.labels))
    sources = {}
    for name in sorted(set(part.sources)):
        chosen = torch.tensor([source == name for source in part.sources])
        sources[name] = text_metrics.accuracy(given[chosen], right[chosen])
    per_class = [
        float(given[right[:, i], i].double().mean()) if right[:, i].any() else None
        for i in range(len(dataset.labels))
    ]
    scores = answers if dataset.multi_label else answers.softmax(1)
    return {
        **text_metrics.accuracy(given, right),
        "metric": dataset.metric,
        "per_class": per_class,
        "per_source": sources,
        "macro_f1": text_metrics.macro_f1(given, right),
        "auroc": text_metrics.auroc(scores, right),
        "ece": text_metrics.expected_calibration_error(answers, part.targets),
    }


agreement = accuracy.agreement


def card(recipe: Recipe, dataset: TextDataset) -> dict[str, Any]:
    """Handler, labels and input of the model card."""
    return {
        "handler": "text_classifier",
        "labels": dataset.labels,
        "input": {
            **dataset.card_input,
            "multi_label": dataset.multi_label,
            "max_bytes": min(recipe.serving.max_bytes, MAX_BYTES),
        },
    }


def extra_files(dataset: TextDataset, folder: Path) -> list[str]:
    """Put what the handler needs beside the model into `folder`; names of the files."""
    source = dataset.encoder / "tokenizer.json"
    write(folder / "tokenizer.json", lambda aside: shutil.copyfile(source, aside))
    return ["tokenizer.json"]


@dataclass(frozen=True)
class DistillStage(TransferOptions):
    """Distil into a student cut from the original: `layers` of its layers, evenly spaced."""

    layers: int = field(default=3, metadata=explored(2, 3, 4))


@dataclass(frozen=True)
class PruneStage:
    """Keep the most important `heads` and `neurons` of every layer, then `recover`.

    Attributes:
        heads: attention heads that stay in each layer.
        neurons: feed-forward neurons that stay in each layer; multiples of 16.
        texts: training texts that importance is measured on.
        recover: distillation from the original afterwards.
    """

    heads: int = field(default=6, metadata=explored(4, 6, 8))
    neurons: int = field(default=640, metadata=explored(384, 640, 1024))
    texts: int = 512
    recover: TransferOptions | None = None

    def __post_init__(self) -> None:
        if min(self.heads, self.neurons, self.texts) < 1:
            raise ValueError("heads, neurons and texts start at 1")


@dataclass(frozen=True)
class QuantizeStage:
    """Static int8.

    Attributes:
        calibration: training windows that set the activation ranges.
    """

    calibration: int = 256

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ValueError("calibration must be 2 windows or more")


def _temperature(model: nn.Module, dataset: TextDataset) -> float:
    """What the logits are to be divided by, fitted on the validation split."""
    split = _split(dataset, "validation")
    logits = text_inference.predict(model, split, "calibrating")
    return fit_temperature(logits, split.targets)


def _calibrated(model: bert.BertClassifier, dataset: TextDataset) -> bert.BertClassifier:
    """Fit the temperature on the validation split and put it into the head."""
    temperature = _temperature(model, dataset)
    with torch.no_grad():
        model.head.weight.div_(temperature)
        model.head.bias.div_(temperature)
    return model


def _train(state: State, options: FineTuneOptions, context: Context) -> State:
    dataset: Any = context.dataset
    model: Any = state.model
    fit(model, _split(dataset, "train"), options, seed=context.seed, title=context.title)
    model = _calibrated(model, dataset)
    return State(model, model, model)


def _teacher_view(
    state: State, layers: int, attention: bool, context: Context
) -> transfer.TeacherView:
    """What the original says of the training texts, asked once for all stages that can share."""
    kept: Any = state.training
    teacher: Any = state.original
    wanted = transfer.spread(layers, len(teacher.layers))
    if (
        isinstance(kept, transfer.TeacherView)
        and len(kept.states) == len(wanted)
        and (kept.packed is not None or not attention)
    ):
        return kept
    split = transfer.one_window_each(_split(context.dataset, "train"), context.seed)  # type: ignore[arg-type]
    return transfer.ask(teacher, split, wanted, attention=attention, title="teacher")


def _learn(
    student: Any, view: transfer.TeacherView, options: transfer.TransferOptions, context: Context
) -> nn.Module:
    loss = transfer.transfer_loss(view, options)
    fit(student, view.split, options, loss, seed=context.seed, title=context.title)
    dataset: Any = context.dataset
    return _calibrated(student, dataset)


def _distill(state: State, options: DistillStage, context: Context) -> State:
    teacher: Any = state.original
    try:
        keep = transfer.spread(options.layers, len(teacher.layers))
    except ValueError as error:
        raise RecipeError(f"distill: {error}") from error
    view = _teacher_view(state, options.layers, options.attention > 0, context)
    student = _learn(transfer.cut(teacher, keep), view, options, context)
    view_: Any = view
    return State(student, student, state.original, view_)


def _vocabulary(state: State, options: VocabularyOptions, context: Context) -> State:
    dataset: Any = context.dataset
    model: Any = state.model
    if isinstance(model.embeddings.word, vocabulary.SharedEmbedding):
        raise RecipeError("vocabulary: the table is shared already, one such stage is enough")
    counts = vocabulary.frequencies(_split(dataset, "train"), model.embeddings.word.num_embeddings)
    tokenizer = load_tokenizer(dataset.encoder)
    found = [tokenizer.token_to_id(name) for name in vocabulary.SPECIAL]
    special = [0, *(i for i in found if i is not None)]
    smaller, covered = vocabulary.shrink(model, counts, special, options)
    details = {"rows": options.rows, "tokens_with_a_row_of_their_own": round(covered, 5)}
    return dataclasses.replace(state, model=smaller, float_model=smaller, details=details)


def _prune(state: State, options: PruneStage, context: Context) -> State:
    dataset: Any = context.dataset
    model: Any = copy.deepcopy(state.model)
    split = transfer.one_window_each(_split(dataset, "train"), context.seed)
    generator = torch.Generator().manual_seed(context.seed)
    chosen = torch.randperm(len(split), generator=generator)[: options.texts].split(32)

    def loss(ids: Tensor, number: int) -> Tensor:
        return against_labels(model(ids), split.targets[chosen[number]])

    blocks = transformer.blocks(model)
    model.eval()
    importance = transformer.measure(
        blocks, (_trimmed(split.windows[part]) for part in chosen), loss
    )
    transformer.prune(blocks, importance, heads=options.heads, neurons=options.neurons)
    view: Any = state.training
    if options.recover is not None:
        attention = options.recover.attention > 0
        view = _teacher_view(state, len(model.layers), attention, context)
        model = _learn(model, view, options.recover, context)
    else:
        model = _calibrated(model, dataset)
    return dataclasses.replace(state, model=model, float_model=model, training=view)


def _trimmed(windows: Tensor) -> Tensor:
    """Without the columns that are padding in every row."""
    return windows[:, : int((windows != 0).sum(1).max())]


def _quantize(state: State, options: QuantizeStage, context: Context) -> State:
    dataset: Any = context.dataset
    windows = _split(dataset, "train").windows
    generator = torch.Generator().manual_seed(context.seed)
    chosen = torch.randperm(len(windows), generator=generator)[: options.calibration]
    batches = [_trimmed(windows[part]) for part in chosen.split(16)]
    model: Any = state.model
    quantized = quantize(model, batches, dataset.max_length)
    temperature = _temperature(quantized, dataset)
    quantized = quantize(model, batches, dataset.max_length, temperature)
    return dataclasses.replace(state, model=quantized, engine=quantized.engine)


STAGES: dict[str, Stage] = {
    "train": Stage(FineTuneOptions, _train),
    "distill": Stage(DistillStage, _distill),
    "vocabulary": Stage(VocabularyOptions, _vocabulary),
    "prune": Stage(PruneStage, _prune),
    "quantize": Stage(QuantizeStage, _quantize),
}


def controls(recipe: Recipe, dataset: TextDataset, final: nn.Module) -> dict[str, nn.Module]:
    """None: the student is cut from its teacher, so there is no such thing without one."""
    return {}
