"""The stages of text recipes: their options, and the library calls they make."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from optimize.data.corpus import TextDataset, TextSplit
from optimize.errors import DataError
from optimize.evaluation import text_inference
from optimize.models.architectures.bert import BertClassifier
from optimize.pruning import transformer
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.quantization.text import quantize
from optimize.recipe.schema import explored
from optimize.tasks.base import Context, State
from optimize.tasks.encoder_stages import (
    PruneOptions,
    QuantizeStage,
    calibration,
    encoder_of,
    fastest_kernels,
    shallower,
    share_rows,
    trimmed,
)
from optimize.tasks.training import training_arguments
from optimize.training import transfer
from optimize.training.finetune import FineTuneOptions, against_labels, fit
from optimize.training.temperature import fit_temperature
from optimize.training.transfer import TransferOptions


@dataclass(frozen=True)
class DistillStage(TransferOptions):
    """Distil into a student with `layers` of the original's layers, evenly spaced.

    Attributes:
        layers: how many the student has.
    """

    searched: ClassVar[bool] = True
    layers: int = field(default=3, metadata=explored(2, 3, 4))


@dataclass(frozen=True)
class PruneStage(PruneOptions):
    """Keep the most important `heads` and `neurons` of every layer, then `recover`.

    Attributes:
        recover: distillation from the original afterwards.
    """

    heads: int = field(default=6, metadata=explored(4, 6, 8))
    neurons: int = field(default=640, metadata=explored(384, 640, 1024))
    recover: TransferOptions | None = None


def split_of(data: TextDataset, name: str) -> TextSplit:
    """A split of the data set, by name.

    Raises:
        DataError: there is none.
    """
    split = getattr(data, name)
    if not isinstance(split, TextSplit):
        raise DataError(f"data set {data.name} has no {name} split, and this recipe needs one")
    return split


def run_train(state: State, options: FineTuneOptions, context: Context[TextDataset]) -> State:
    """Fine-tune the model itself; it becomes the original."""
    model = copy.deepcopy(
        encoder_of(state.model, BertClassifier)
    )  # a search's candidates start from it too
    arguments = training_arguments(options, context, "train")
    fit(model, split_of(context.data, "train"), options, **arguments)
    training = dataclasses.asdict(arguments["history"])
    return State.of(_calibrated(model, context.data), training=training)


def run_distill(state: State, options: DistillStage, context: Context[TextDataset]) -> State:
    """Distil the original into a copy of itself with fewer layers."""
    teacher = encoder_of(state.original, BertClassifier)
    student = shallower(teacher, options.layers)
    return _learn(student, state, options, context, "distill")


def run_vocabulary(
    state: State, options: VocabularyOptions, context: Context[TextDataset]
) -> State:
    """Let the rarest tokens share the embedding rows of their nearest neighbours."""
    model, data = encoder_of(state.model, BertClassifier), context.data
    return share_rows(state, model, split_of(data, "train"), data.encoder, options)


def run_prune(state: State, options: PruneStage, context: Context[TextDataset]) -> State:
    """Prune heads and neurons by their importance for the training texts, and recover."""
    model = copy.deepcopy(encoder_of(state.model, BertClassifier)).eval()
    split = transfer.one_window_each(split_of(context.data, "train"), context.seed)
    generator = torch.Generator().manual_seed(context.seed)
    chosen = torch.randperm(len(split), generator=generator)[: options.texts].split(32)

    def loss(ids: Tensor, number: int) -> Tensor:
        return against_labels(model(ids), split.targets[chosen[number]])

    blocks = transformer.blocks(model)
    options.check(blocks)
    importance = transformer.measure(
        blocks, (trimmed(split.windows[part]) for part in chosen), loss
    )
    transformer.prune(blocks, importance, heads=options.heads, neurons=options.neurons)
    if options.recover is None:
        return state.then(_calibrated(model, context.data))
    return _learn(model, state, options.recover, context, "recover")


def run_quantize(state: State, options: QuantizeStage, context: Context[TextDataset]) -> State:
    """Quantize, and fit the temperature anew."""
    windows = split_of(context.data, "train").windows
    batches = calibration(windows, options, context.seed)
    model, longest = state.model, context.data.max_length
    details, settled = fastest_kernels(model, batches, longest, options, context)
    bits = options.table_bits
    quantized = quantize(model, batches, longest, kernels=settled, table_bits=bits)
    if isinstance(model, BertClassifier):
        temperature = _temperature(quantized, context.data)
        quantized = quantize(model, batches, longest, temperature, settled, bits)
    return dataclasses.replace(state, model=quantized, engine=quantized.engine, details=details)


def _learn(
    student: BertClassifier,
    state: State,
    options: TransferOptions,
    context: Context[TextDataset],
    name: str,
) -> State:
    """Train `student` on the original's outputs for the training texts."""
    teacher = encoder_of(state.original, BertClassifier)
    view = _teacher_view(teacher, len(student.layers), options.attention > 0, context)
    loss = transfer.transfer_loss(view, options)
    arguments = training_arguments(options, context, name)
    fit(student, view.split, options, loss, **arguments)
    training = dataclasses.asdict(arguments["history"])
    return state.then(_calibrated(student, context.data), training=training)


def _teacher_view(
    teacher: BertClassifier, layers: int, attention: bool, context: Context[TextDataset]
) -> transfer.TeacherView:
    """The teacher's outputs for the training texts, computed once for stages that can share."""

    def ask() -> transfer.TeacherView:
        # The run's seed, so that a stage that is resumed alone has the same windows.
        split = transfer.one_window_each(split_of(context.data, "train"), context.recipe.seed)
        teacher_layers = transfer.spread(layers, len(teacher.layers))
        return transfer.ask(teacher, split, teacher_layers, attention=attention, title="teacher")

    name = f"view of {layers} layers{' with attention' if attention else ''}"
    return context.memory.once(teacher, name, ask)


def _temperature(model: nn.Module, data: TextDataset) -> float:
    """Fitted on the validation split."""
    split = split_of(data, "validation")
    logits = text_inference.predict(model, split, "temperature")
    return fit_temperature(logits, split.targets)


def _calibrated(model: BertClassifier, data: TextDataset) -> BertClassifier:
    """Fit the temperature and put it into the head."""
    temperature = _temperature(model, data)
    with torch.no_grad():
        model.head.weight.div_(temperature)
        model.head.bias.div_(temperature)
    return model
