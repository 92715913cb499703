"""From a checkpoint to the compressed transcriber."""

from dataclasses import dataclass

from torch import Tensor

from optimize.lowering.kernels.vocabulary import SvdSoftmaxVocabulary
from optimize.models.whisper import screen, silence
from optimize.models.whisper.build import build
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.transcriber import Transcriber
from optimize.models.whisper.vocabulary import FloatVocabulary

ENGINE = "fbgemm"
"""Faster than onednn for products with one token; packs the file's weights at load."""


@dataclass(frozen=True)
class CompressOptions:
    """How to compress.

    Attributes:
        context: `real` encodes the real audio and uses cached silence for the padding;
            `padded` encodes 30 s whatever the length.
        rank: columns of the output head's SVD-softmax projection; 0 for none.
        group: silent positions that are averaged into one. Accuracy held up to 16 for cached
            silence, and up to 4 for silence that is encoded and merged after the first layer.
        step, margin, merged: see `build`.
    """

    context: str = "real"
    rank: int = screen.RANK
    group: int = silence.GROUP
    step: int = 16
    margin: int = 4
    merged: int = 2

    def __post_init__(self) -> None:
        if self.context not in ("real", "padded"):
            raise ValueError(f"context must be real or padded, not {self.context!r}")
        if min(self.group, self.step, self.merged) < 1 or self.margin < 0:
            raise ValueError("group, step and merged are at least 1, margin at least 0")
        if self.step % self.merged or (self.context == "padded" and self.group % self.merged):
            raise ValueError("merged must divide step, and group where silence is encoded")


def fit_screen(
    checkpoint: Checkpoint, clips: list[Tensor], rank: int = screen.RANK
) -> tuple[Tensor, Tensor] | None:
    """The output head's SVD-softmax projection, fitted on clips; None if there is none.

    Args:
        checkpoint: the weights.
        clips: of the development split, float32 `[n]` at 16 kHz.
        rank: columns of the projection; 0 or the full width means none.

    Returns:
        The two bases of `screen.fit`.
    """
    if not 0 < rank < checkpoint.spec.width or not clips:
        return None
    exact = build(checkpoint, int8=False)
    silence.fill(exact, exact.encoder)  # ten times faster, with nearly the same states
    table = checkpoint.weights["model.decoder.embed_tokens.weight"]
    return screen.fit(table, screen.hidden_states(exact, clips), rank)


def compress(
    checkpoint: Checkpoint,
    bases: tuple[Tensor, Tensor] | None = None,
    options: CompressOptions | None = None,
) -> Transcriber:
    """Compress a checkpoint; `torch.backends.quantized.engine` must be ENGINE.

    Args:
        checkpoint: the weights.
        bases: from `fit_screen`.
        options: see `CompressOptions`.
    """
    options = options or CompressOptions()
    model = build(
        checkpoint,
        screen=bases,
        step=options.step,
        margin=options.margin,
        merged=options.merged,
    )
    if options.context == "padded":
        model.group = options.group
        return model
    encoder = build(checkpoint, int8=False).encoder
    return silence.fill(model, encoder, group=options.group)


def options_of(model: Transcriber) -> CompressOptions:
    """The options of a model from `compress`.

    Raises:
        ValueError: the model is in float.
    """
    head = model.vocabulary
    if isinstance(head, FloatVocabulary):
        raise ValueError("the model is in float")
    return CompressOptions(
        context="real" if len(model.fill_levels) else "padded",
        rank=head.basis.shape[1] if isinstance(head, SvdSoftmaxVocabulary) else 0,
        group=model.group,
        step=model.step,
        margin=model.margin,
        merged=model.merged,
    )


def bases_of(model: Transcriber) -> tuple[Tensor, Tensor] | None:
    """The bases of the output head's SVD-softmax; None if it has none."""
    head = model.vocabulary
    return (head.hidden_basis, head.basis) if isinstance(head, SvdSoftmaxVocabulary) else None
