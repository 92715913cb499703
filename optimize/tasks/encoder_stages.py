"""What the stages of every text encoder share: options, fewer layers and embedding rows, and
int8's calibration and kernels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from optimize.data.corpus import TextSplit, load_tokenizer
from optimize.errors import ModelError, OptionError, RecipeError
from optimize.models.architectures.bert import BertClassifier, BertEmbedder
from optimize.pruning import vocabulary
from optimize.pruning.transformer import Block
from optimize.pruning.vocabulary import VocabularyOptions
from optimize.quantization.kernels import Kernels
from optimize.quantization.text import measured
from optimize.tasks.base import Context, State
from optimize.training import transfer

E = TypeVar("E", BertClassifier, BertEmbedder)


@dataclass(frozen=True)
class QuantizeStage:
    """Static int8.

    Attributes:
        calibration: training windows that set the activation ranges.
        table_bits: of the embedding table, 8 or 4; all else is int8.
    """

    searched: ClassVar[bool] = True
    calibration: int = 256
    table_bits: int = 8

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ValueError("calibration must be 2 windows or more")
        if self.table_bits not in (4, 8):
            raise ValueError(f"table_bits is {self.table_bits}: an embedding table takes 8 or 4")


@dataclass(frozen=True)
class PruneOptions:
    """Keep the most important `heads` and `neurons` of every layer.

    Attributes:
        heads: attention heads that stay in each layer.
        neurons: feed-forward neurons that stay in each layer; multiples of 16.
        texts: training texts that importance is measured on.
    """

    searched: ClassVar[bool] = True
    heads: int
    neurons: int
    texts: int = 512

    def __post_init__(self) -> None:
        if min(self.heads, self.neurons, self.texts) < 1:
            raise ValueError("heads, neurons and texts start at 1")

    def check(self, blocks: Sequence[Block]) -> None:
        """Raise OptionError where nothing would be removed from a model of these blocks."""
        heads, neurons = blocks[0].heads, blocks[0].neurons
        if self.heads >= heads and self.neurons >= neurons:
            raise OptionError(
                f"heads {self.heads} and neurons {self.neurons} remove nothing: the layers have "
                f"{heads} heads and {neurons} neurons; keep fewer, or leave out the stage"
            )


def encoder_of(model: nn.Module, kind: type[E]) -> E:
    """The model as the float encoder of this kind that stages work on.

    Raises:
        ModelError: it is another kind of module, or no longer in float.
    """
    if not isinstance(model, kind):
        raise ModelError(
            f"the stage needs a BERT encoder in float, not {type(model).__name__}: put it before "
            "quantize; a network of another kind can be quantized or served as it is (stages: [])"
        )
    return model


def shallower(teacher: E, layers: int) -> E:
    """A copy with so many of its layers, evenly spaced. Raises RecipeError if it has fewer."""
    try:
        keep = transfer.spread(layers, len(teacher.layers))
    except ValueError as error:
        raise RecipeError(f"distill: {error}") from error
    return transfer.cut(teacher, keep)


def share_rows(
    state: State,
    model: BertClassifier | BertEmbedder,
    texts: TextSplit,
    encoder: Path,
    options: VocabularyOptions,
) -> State:
    """Let the rarest tokens share the embedding rows of their nearest neighbours.

    Args:
        state: before the stage.
        model: its model.
        texts: that tokens are counted in.
        encoder: the folder of the tokenizer.
        options: of the stage.

    Raises:
        RecipeError: they share rows already.
    """
    if isinstance(model.embeddings.word, vocabulary.SharedEmbedding):
        raise RecipeError("vocabulary: the table is shared already, one such stage is enough")
    counts = vocabulary.frequencies(texts, model.embeddings.word.num_embeddings)
    special = vocabulary.special_ids(load_tokenizer(encoder))
    smaller, covered = vocabulary.shrink(model, counts, special, options)
    return state.then(smaller, rows=options.rows, tokens_with_a_row_of_their_own=round(covered, 5))


def trimmed(windows: Tensor) -> Tensor:
    """Windows int `[N, L]` without the columns that are padding in every row."""
    return windows[:, : int((windows != 0).sum(1).max())]


def calibration(windows: Tensor, options: QuantizeStage, seed: int) -> list[Tensor]:
    """Batches of at most 16 training windows, drawn at random, to set activation ranges with."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(windows), generator=generator)[: options.calibration]
    return [trimmed(windows[part]) for part in chosen.split(16)]


def fastest_kernels(
    model: nn.Module,
    batches: list[Tensor],
    longest: int,
    options: QuantizeStage,
    context: Context[Any],
) -> tuple[dict[str, Any], Kernels | None]:
    """The stage's details and the fastest kernels here; none where none are measured."""
    serving = context.recipe.serving
    found = measured(model, batches, longest, serving.batch_size, options.table_bits)
    if found is None:
        return {}, None
    context.say(f"    kernels: {found.kernels}, the fastest here")
    return {"kernels": found.to_json()}, found.kernels
