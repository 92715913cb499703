"""Pictures that come as arrays or tensors, checked and brought to uint8 `[N, C, H, W]`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimize.errors import DataError

NORMALIZED = (
    "give pixels as uint8, or as floats of 0..1, and say the normalisation in the recipe: "
    "`input: {mean: [...], std: [...]}`"
)
FLOATS = (
    "images came as numbers other than uint8 and are kept as pixels 0..255, as clients send them: "
    "a model that takes 0..1 needs `input: {value_range: 0..1}`, or mean and std"
)


def images(values: Any, where: str, layout: str = "NCHW") -> Tensor:
    """Pixels as uint8 `[N, C, H, W]`.

    Args:
        values: uint8 0..255, or floats 0..1; `[N, C, H, W]`, `[N, H, W, C]` or, grey, `[N, H, W]`.
        where: for messages.
        layout: NCHW, NHWC, or auto: whichever has 1 or 3 channels.

    Raises:
        DataError: other values or shapes, with these; what is NHWC and not said so is named.
    """
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: images are no array of numbers ({error})") from error
    shape = list(tensor.shape)
    if tensor.ndim == 3 and layout != "NCHW":
        tensor = tensor.unsqueeze(1)
    elif tensor.ndim != 4:
        raise DataError(f"{where}: images must be [N, C, H, W], not {tensor.dtype} {shape}")
    elif _channels_last(tensor) and layout == "NCHW":
        n, h, w, c = shape
        raise DataError(
            f"{where}: images {shape} look like [N, H, W, C]: give [N, C, H, W], "
            f"images.permute(0, 3, 1, 2), here {[n, c, h, w]}"
        )
    elif layout == "NHWC" or (layout == "auto" and _channels_last(tensor)):
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] not in (1, 3):
        raise DataError(
            f"{where}: images {shape} have {tensor.shape[1]} channels: 1 (grey) or 3 are served"
        )
    return pixels(tensor, where).contiguous()


def pixels(tensor: Tensor, where: str) -> Tensor:
    """uint8 pixels of uint8, or of floats or whole numbers that hold them."""
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.numel() or tensor.dtype == torch.bool or tensor.is_complex():
        raise DataError(f"{where}: images are {tensor.dtype} {list(tensor.shape)}; {NORMALIZED}")
    least, most = (float(value) for value in tensor.aminmax())
    if tensor.is_floating_point() and least >= 0 and most <= 1:
        return (tensor * 255).round().to(torch.uint8)
    whole = not tensor.is_floating_point() or bool((tensor == tensor.round()).all())
    if whole and least >= 0 and most <= 255:
        return tensor.to(torch.uint8)
    raise DataError(
        f"{where}: images are {tensor.dtype} from {least:g} to {most:g}, normalised it seems: "
        f"{NORMALIZED}"
    )


def labels(values: Any, count: int, where: str) -> Tensor:
    """Labels as int64 `[N]`, from whole numbers `[N]`, `[N, 1]`.

    Raises:
        DataError: other shapes or values, or not `count` of them.
    """
    try:
        tensor = torch.as_tensor(np.asarray(values) if isinstance(values, list) else values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: labels must be whole numbers from 0 ({error})") from error
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    whole = not tensor.is_floating_point() or bool((tensor == tensor.round()).all())
    if tensor.ndim != 1 or not whole or (tensor.numel() and int(tensor.min()) < 0):
        hint = "; of one-hot rows take argmax(1)" if tensor.ndim == 2 else ""
        raise DataError(
            f"{where}: labels must be whole numbers [N] from 0, not {tensor.dtype} "
            f"{list(tensor.shape)}{hint}"
        )
    if len(tensor) != count:
        raise DataError(f"{where}: {count} images with {len(tensor)} labels")
    return tensor.long()


def _channels_last(tensor: Tensor) -> bool:
    """Whether `[N, a, b, c]` has channels last: c is 1 or 3, and a is neither."""
    return tensor.shape[3] in (1, 3) and tensor.shape[1] not in (1, 3)
