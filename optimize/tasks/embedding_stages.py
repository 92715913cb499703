"""The stages of embedding recipes: their options, and the library calls they make."""

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from optimize.data.corpus import TextSplit
from optimize.data.text_pairs import PairDataset
from optimize.models.architectures.bert import BertEmbedder
from optimize.pruning import transformer, vocabulary
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
from optimize.training import embedding
from optimize.training.embedding import EmbeddingTransferOptions
from optimize.training.finetune import fit
from optimize.training.trainer import History


@dataclass(frozen=True)
class DistillStage(EmbeddingTransferOptions):
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

    heads: int = field(default=10, metadata=explored(8, 10, 12))
    neurons: int = field(default=1024, metadata=explored(768, 1024, 1536))
    recover: EmbeddingTransferOptions | None = None


def run_distill(state: State, options: DistillStage, context: Context[PairDataset]) -> State:
    """Distil the original into a copy of itself with fewer layers."""
    teacher = encoder_of(state.original, BertEmbedder)
    words = encoder_of(state.model, BertEmbedder).embeddings.word
    student = shallower(teacher, options.layers)
    if isinstance(words, vocabulary.SharedEmbedding):
        student.embeddings.word = copy.deepcopy(words)
    return _learn(student, state, options, context, "distill")


def run_vocabulary(
    state: State, options: VocabularyOptions, context: Context[PairDataset]
) -> State:
    """Let the rarest tokens share the embedding rows of their nearest neighbours."""
    model, data = encoder_of(state.model, BertEmbedder), context.data
    return share_rows(state, model, data.train, data.encoder, options)


def run_prune(state: State, options: PruneStage, context: Context[PairDataset]) -> State:
    """Prune heads and neurons by their importance for the teacher's embeddings, and recover."""
    model = copy.deepcopy(encoder_of(state.model, BertEmbedder)).eval()
    blocks = transformer.blocks(model)
    options.check(blocks)
    view = _teacher_view(state, context)
    # Texts alone: what a head or neuron does is read off one run of the model.
    wanted = embedding.lesson(view, EmbeddingTransferOptions(), context.data.pairs).loss
    generator = torch.Generator().manual_seed(context.seed)
    chosen = torch.randperm(len(view), generator=generator)[: options.texts].split(32)

    def loss(ids: Tensor, number: int) -> Tensor:
        return wanted(model, ids, chosen[number], view.targets[chosen[number]])

    importance = transformer.measure(blocks, (trimmed(view.windows[i]) for i in chosen), loss)
    transformer.prune(blocks, importance, heads=options.heads, neurons=options.neurons)
    if options.recover is None:
        return state.then(model)
    return _learn(model, state, options.recover, context, "recover")


def run_quantize(state: State, options: QuantizeStage, context: Context[PairDataset]) -> State:
    """Quantize with activation ranges from training windows."""
    windows = context.data.train.windows
    batches = calibration(windows, options, context.seed)
    model, longest = state.model, context.data.max_length
    details, settled = fastest_kernels(model, batches, longest, options, context)
    bits = options.table_bits
    quantized = quantize(model, batches, longest, kernels=settled, table_bits=bits)
    return dataclasses.replace(state, model=quantized, engine=quantized.engine, details=details)


def _learn(
    student: BertEmbedder,
    state: State,
    options: EmbeddingTransferOptions,
    context: Context[PairDataset],
    name: str,
) -> State:
    """Train `student` on the original's embeddings of the training texts."""
    view, history = _teacher_view(state, context), History()
    lesson = embedding.lesson(view, options, context.data.pairs)
    student.embeddings.word.requires_grad_(not options.freeze_table)
    fit(
        student,
        lesson.split,
        options,
        lesson.loss,
        seed=context.seed,
        title=context.title,
        progress=context.progress(name, options.checkpoint_seconds),
        history=history,
        say=context.say,
    )
    student.embeddings.word.requires_grad_(True)
    return state.then(student, training=dataclasses.asdict(history))


def _teacher_view(state: State, context: Context[PairDataset]) -> TextSplit:
    """The original's embeddings of the training texts, computed once for all stages."""
    teacher = state.original

    def ask() -> TextSplit:
        # The run's seed, so that a stage that is resumed alone has the same windows.
        return embedding.ask(teacher, context.data.train, context.recipe.seed)

    return context.memory.once(teacher, "embeddings", ask)
