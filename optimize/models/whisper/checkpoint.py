"""A Whisper checkpoint (Radford et al. 2022): sizes, special tokens, weights.

Weights are named as in Hugging Face's `WhisperForConditionalGeneration.state_dict()`, whatever
format they were read from.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

SAMPLE_RATE = 16_000
CHUNK_SECONDS = 30


@dataclass(frozen=True)
class Spec:
    """Sizes and special tokens.

    Attributes:
        width: of the residual stream; the same in encoder and decoder.
        start: the tokens that decoding starts from, `<|notimestamps|>` last.
        suppress: tokens that are never produced.
        suppress_first: tokens that are never produced first (blank and end).
        languages: language code to its token; empty for English-only weights.
        tasks: task name to its token; empty for English-only weights.
    """

    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    vocabulary: int
    mels: int
    end: int
    start: list[int]
    suppress: list[int]
    suppress_first: list[int]
    audio_positions: int = 1500
    text_positions: int = 448
    languages: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def samples_per_position(self) -> int:
        """16 kHz samples that one encoder position stands for: 320 (20 ms)."""
        return SAMPLE_RATE * CHUNK_SECONDS // self.audio_positions


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory: float32 weights, the tokenizer's file, and a name of the source."""

    spec: Spec
    weights: dict[str, Tensor]
    tokenizer: Path
    source: str
