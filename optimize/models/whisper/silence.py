"""Cached, merged encodings of pure silence, used instead of padding clips to 30 s.

Whisper scales its features by the loudest frame, so the level of silence differs between clips. A
few levels are encoded in advance, and each clip uses the nearest.
"""

import torch
from torch import Tensor
from torch.nn import functional

from optimize.models.whisper.encoder import Encoder
from optimize.models.whisper.transcriber import Transcriber

LEVELS = (-1.35, -1.0, -0.65)
"""Silence levels: quiet, ordinary and loud clips of the development split."""

GROUP = 16
"""Silent positions merged into one."""


def merge(values: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Average neighbouring positions.

    Args:
        values: `[..., positions, width]`.
        group: positions per group; the last group may have fewer.

    Returns:
        Means `[..., groups, width]` and the logarithm of each group's count, `[groups]`.
    """
    positions = values.shape[-2]
    groups = -(-positions // group)
    missing = groups * group - positions
    counts = torch.full((groups,), float(group))
    counts[-1] -= missing
    padded = functional.pad(values, (0, 0, 0, missing))
    sums = padded.unflatten(-2, (groups, group)).sum(-2)
    return sums / counts[:, None], counts.log()


def encode_silence(
    encoder: Encoder, positions: int, mels: int, level: float
) -> tuple[Tensor, Tensor]:
    """Keys and values of `positions` of silence: `[layers, 2, heads, positions, head width]`.

    Returns:
        Those of the encoder's self-attention, and those for the decoder's cross-attention.
    """
    projections: list[Tensor] = []
    hooks = [
        layer.qkv.register_forward_hook(lambda _m, _i, out: projections.append(out))
        for layer in encoder.layers
    ]
    heads = encoder.layers[0].heads
    features = torch.full((2 * positions, mels), level)
    width = encoder.positions.shape[1] // heads
    no_fill = torch.zeros(len(encoder.layers), 2, heads, 0, width)
    try:
        with torch.inference_mode():
            cross = encoder(features, positions, no_fill, torch.zeros(0), positions, 1, 1)
    finally:
        for hook in hooks:
            hook.remove()
    own = torch.stack(projections).view(len(projections), positions, 3, heads, width)[:, :, 1:]
    cross = cross.view(positions, -1, 2, heads, width)
    return own.permute(0, 2, 3, 1, 4), cross.permute(1, 2, 3, 0, 4)


def fill(
    model: Transcriber,
    encoder: Encoder,
    levels: tuple[float, ...] = LEVELS,
    group: int = GROUP,
) -> Transcriber:
    """Make `model` encode only the real audio, in place; returns it.

    Args:
        model: a transcriber that pads to 30 s.
        encoder: a float32 encoder with the same weights.
        levels: of silence, on the scale of the features; see the module.
        group: see `merge`.
    """
    mels = model.frontend.filters.shape[0]
    pairs = [encode_silence(encoder, model.audio_positions, mels, level) for level in levels]
    own, bias = merge(torch.stack([pair[0] for pair in pairs]), group)
    cross, _ = merge(torch.stack([pair[1] for pair in pairs]), group)
    model.fill_levels = torch.tensor(levels)
    model.fill_encoder, model.fill_cross = own.bfloat16(), cross.half()
    model.fill_bias, model.group = bias, group
    return model
