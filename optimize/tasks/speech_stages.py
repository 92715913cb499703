"""The stages of speech recipes: their options, and the compression they apply.

Each stage rebuilds the transcriber from the checkpoint, with the options of earlier stages.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimize.data.speech import Speech, Utterance
from optimize.errors import OptionError
from optimize.models.whisper import compress, screen, silence
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.compress import ENGINE, CompressOptions
from optimize.models.whisper.transcriber import Transcriber
from optimize.recipe.schema import explored
from optimize.tasks.base import Context, State


@dataclass(frozen=True)
class SpeechData:
    """Recordings, and the checkpoint whose tokenizer decodes their transcripts."""

    recordings: Speech
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return self.recordings.name

    @property
    def source(self) -> str:
        return self.recordings.source

    @property
    def labels(self) -> list[str]:
        return []

    @property
    def notes(self) -> list[str]:
        return self.recordings.notes

    @property
    def agreement_split(self) -> str:
        return "test"

    def count(self, split: str) -> int:
        return len(self.recordings.split(split))

    def fingerprint(self) -> str:
        return self.recordings.fingerprint()


@dataclass(frozen=True)
class Int8Stage:
    """Linear layers and vocabulary in int8, encoder attention in bf16."""


@dataclass(frozen=True)
class ScreenStage:
    """SVD-softmax in the output head (Shim et al. 2017).

    Attributes:
        rank: columns of the projection that chooses the tokens to score exactly.
    """

    searched: ClassVar[bool] = True
    rank: int = field(default=screen.RANK, metadata=explored(64, 128, 192))


@dataclass(frozen=True)
class ContextStage:
    """Encode only the real audio; see `optimize.models.whisper.silence`.

    Attributes:
        group: positions of silence that are merged into one.
        step: encoded positions, of 20 ms each, are rounded up to a multiple of this.
        margin: positions past the end of the audio that are encoded too.
        merged: real positions that the decoder attends to as one.
    """

    searched: ClassVar[bool] = True
    group: int = silence.GROUP
    step: int = 16
    margin: int = 4
    merged: int = field(default=2, metadata=explored(1, 2))


def samples(utterances: list[Utterance]) -> list[Tensor]:
    """Recordings as float32 `[n]` at 16 kHz."""
    return [torch.from_numpy(utterance.samples()) for utterance in utterances]


def run_int8(state: State, options: Int8Stage, context: Context[SpeechData]) -> State:
    """Int8 only: every recording is padded to 30 s."""
    return _compressed(state, context, None, CompressOptions("padded", rank=0, group=1, merged=1))


def run_screen(state: State, options: ScreenStage, context: Context[SpeechData]) -> State:
    """Fit the SVD-softmax projection on the development recordings."""
    before = _options(state.model)
    clips = samples(context.data.recordings.development)
    bases = compress.fit_screen(context.data.checkpoint, clips, options.rank)
    return _compressed(state, context, bases, dataclasses.replace(before, rank=options.rank))


def run_context(state: State, options: ContextStage, context: Context[SpeechData]) -> State:
    """Replace the padding by cached silence."""
    changes: dict[str, Any] = {"context": "real", **vars(options)}
    before = _options(state.model)
    try:
        after = dataclasses.replace(before, **changes)
    except ValueError as error:
        raise OptionError(str(error)) from error
    bases = compress.bases_of(state.model) if isinstance(state.model, Transcriber) else None
    return _compressed(state, context, bases, after)


def _options(model: nn.Module) -> CompressOptions:
    """The options of the stages before."""
    try:
        assert isinstance(model, Transcriber)
        return compress.options_of(model)
    except ValueError as error:
        raise OptionError("the first stage of a speech recipe is int8") from error


def _compressed(
    state: State,
    context: Context[SpeechData],
    bases: tuple[Tensor, Tensor] | None,
    options: CompressOptions,
) -> State:
    torch.backends.quantized.engine = ENGINE
    model = compress.compress(context.data.checkpoint, bases, options).eval()
    return dataclasses.replace(state, model=model, engine=ENGINE)
