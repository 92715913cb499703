"""JSON tensors to model input: nested lists of pixels 0..255."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handlers.errors import RequestError
from handlers.images import ImageSpec, check_pixels, fit_pixels, in_order
from handlers.resizing import Pixels

Floats = npt.NDArray[np.float64]

_SHAPES = "[H][W], [H][W][C] or [C][H][W] with C of 1 or 3"
# ITU-R BT.601 luma, as Pillow's convert("L") and libjpeg compute it.
_LUMA = np.array([299, 587, 114], dtype=np.uint32)


def load_pixels(values: Any, spec: ImageSpec) -> torch.Tensor:
    """Nested lists of numbers as the model's input, uint8 [C, height, width].

    Floats are rounded. A picture of another size is resized like an image file.
    Raises RequestError: 400 ragged, non-numeric or of another rank, 413 over the
    pixel limit, 422 empty, NaN, infinite or outside 0..255.
    """
    array = _array(values)
    if array.size == 0:
        raise RequestError(422, "zero_size", f"the tensor is empty (shape {list(array.shape)})")
    pixels = _channels_last(array, spec)
    check_pixels(pixels.shape[1], pixels.shape[0], spec)
    eight_bit = _with_channels(_bytes(pixels), spec.channels)
    if eight_bit.shape[:2] == (spec.height, spec.width):
        image = torch.from_numpy(np.ascontiguousarray(eight_bit.transpose(2, 0, 1)).copy())
        return in_order(image, spec)
    return fit_pixels(eight_bit, spec)


def _array(values: Any) -> Floats:
    leaf = values
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if not isinstance(leaf, list | int | float | None):
        raise RequestError(400, "wrong_type", "a tensor holds numbers 0..255 and nothing else")
    try:
        # Straight to float64: left to guess, numpy would give every cell the width of
        # the longest string among them. JSON null, what some encoders make of NaN, becomes NaN.
        return np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise RequestError(422, "out_of_range", "pixels must be within 0..255") from error
    except (TypeError, ValueError) as error:
        raise RequestError(
            400,
            "ragged_tensor",
            "every list of a tensor must have the same length and hold numbers only",
        ) from error


def _channels_last(array: Floats, spec: ImageSpec) -> Floats:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3:
        hint = '; send a batch as {"instances": [...]}' if array.ndim == 4 else ""
        raise RequestError(
            400, "wrong_shape", f"a tensor of shape {list(array.shape)}: expected {_SHAPES}{hint}"
        )
    first = array.shape[0] in (1, 3)
    last = array.shape[2] in (1, 3)
    if first and last:  # a picture 1 or 3 pixels high or wide: the model's own size decides
        first = array.shape == (spec.channels, spec.height, spec.width)
    if first:
        return array.transpose(1, 2, 0)
    if last:
        return array
    raise RequestError(
        400, "wrong_shape", f"a tensor of shape {list(array.shape)}: expected {_SHAPES}"
    )


def _bytes(pixels: Floats) -> Pixels:
    if not np.isfinite(pixels).all():
        raise RequestError(422, "not_finite", "the tensor holds NaN or infinity")
    rounded = np.rint(pixels)
    if rounded.min() < 0 or rounded.max() > 255:
        raise RequestError(
            422,
            "out_of_range",
            f"pixels from {pixels.min():g} to {pixels.max():g}: they must be within 0..255",
        )
    return rounded.astype(np.uint8)


def _with_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    luma = (pixels.astype(np.uint32) @ _LUMA + 500) // 1000
    return luma.astype(np.uint8)[:, :, None]
