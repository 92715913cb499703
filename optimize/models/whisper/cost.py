"""Cost of a transcription: parameters, and multiply-accumulates per recording."""

from optimize.models.whisper.checkpoint import Spec
from optimize.models.whisper.compress import CompressOptions


def positions(spec: Spec, samples: int, options: CompressOptions | None) -> int:
    """Encoder positions computed for a clip of `samples` samples."""
    if options is None or options.context == "padded":
        return spec.audio_positions
    real = -(-samples // spec.samples_per_position)
    return min(spec.audio_positions, -(-(real + options.margin) // options.step) * options.step)


def parameters(spec: Spec) -> int:
    """Parameters of the checkpoint; the output head is the embedding."""
    width = spec.width
    linear = 4 * width * width + 3 * width  # attention: q, k (without bias), v, out
    block = linear + 8 * width * width + 5 * width + 4 * width
    encoder = spec.encoder_layers * block + 2 * width + spec.audio_positions * width
    encoder += 3 * spec.mels * width + width + 3 * width * width + width
    decoder = spec.decoder_layers * (block + linear + 2 * width) + 2 * width
    return encoder + decoder + (spec.text_positions + spec.vocabulary) * width


def macs(spec: Spec, encoded: int, tokens: int, options: CompressOptions | None) -> int:
    """Multiply-accumulates of one recording, matrix products only.

    Args:
        spec: of the checkpoint.
        encoded: encoder positions computed.
        tokens: tokens produced.
        options: of the compression; None for the original.
    """
    width, rank = spec.width, spec.width
    own_keys, cross_keys, projected = encoded, encoded, encoded
    if options is not None:
        rank = options.rank or spec.width
        projected = encoded // options.merged
        silent = 0
        if options.context == "real":
            silent = -(-spec.audio_positions // options.group) - encoded // options.group
        own_keys, cross_keys = encoded + silent, projected + silent
    encoder = 2 * encoded * 3 * spec.mels * width + encoded * 3 * width * width
    encoder += spec.encoder_layers * (12 * encoded * width * width + 2 * encoded * own_keys * width)
    encoder += spec.decoder_layers * 2 * projected * width * width
    steps = tokens + len(spec.start)
    step = spec.decoder_layers * (14 * width * width + 2 * cross_keys * width + steps * width)
    return encoder + steps * step + (tokens + 1) * spec.vocabulary * rank
