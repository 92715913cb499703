"""Pixels of any size to the model's: cropped, squashed or letterboxed, as Pillow does.

`crop` scales until the picture covers the size and keeps its centre (torchvision's `Resize`
and `CenterCrop`, timm's crop mode `center`). `squash` scales both sides, whatever the aspect
(`Resize((h, w))`). `letterbox` scales until the picture fits and fills the borders (timm's
`border`). Each may scale to `resize_size` first and then take the centre (timm's `crop_pct`).
Every filter is antialiased: PyTorch's uint8 kernels agree with Pillow's to one grey level.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Size = tuple[int, int]

RESIZES = ("crop", "squash", "letterbox")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming")
_MAX_ASPECT = 4


class Geometry(Protocol):
    """What decides how a picture is brought to `height` x `width`.

    `resize_size` is the size before the centre is taken: in `crop` the length of the shorter
    side or the (height, width) to cover, in `squash` and `letterbox` a (height, width).
    `fill` is the grey level, 0..255, of a letterbox's borders.
    """

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def resize(self) -> str: ...
    @property
    def resize_size(self) -> int | Size: ...
    @property
    def interpolation(self) -> str: ...
    @property
    def fill(self) -> int: ...


def fit(pixels: Pixels, geometry: Geometry) -> torch.Tensor:
    """Uint8 pixels [H, W, C] as uint8 [C, height, width], contiguous."""
    if geometry.resize == "crop":
        pixels = _without_far_ends(pixels, geometry)
    if min(pixels.strides) < 0:
        pixels = np.ascontiguousarray(pixels)
    size = scaled_size(pixels.shape[0], pixels.shape[1], geometry)
    image = _scale(pixels, size, geometry.interpolation)
    return _centre(image, geometry).clone(memory_format=torch.contiguous_format)


def scaled_size(height: int, width: int, geometry: Geometry) -> Size:
    """Height and width after scaling a picture, before its centre is taken."""
    target, to = (geometry.height, geometry.width), geometry.resize_size
    if geometry.resize == "crop":
        if isinstance(to, int):
            shorter = min(height, width)
            scaled = (to * height // shorter, to * width // shorter)
        else:
            scaled = _times(height, width, max(to[0] / height, to[1] / width))
        if scaled[0] >= target[0] and scaled[1] >= target[1]:
            return scaled
        # The crop would not fit: enlarge until it does, instead of padding.
        scaled = _times(height, width, max(target[0] / height, target[1] / width))
        return max(target[0], scaled[0]), max(target[1], scaled[1])
    box = (to, to) if isinstance(to, int) else to
    if geometry.resize == "squash":
        return box
    scaled = _times(height, width, min(box[0] / height, box[1] / width))
    return min(box[0], max(1, scaled[0])), min(box[1], max(1, scaled[1]))


def _times(height: int, width: int, scale: float) -> Size:
    return round(height * scale), round(width * scale)


def _without_far_ends(pixels: Pixels, geometry: Geometry) -> Pixels:
    """The middle of a long strip: its ends never reach the crop, yet would be resized."""
    height, width = pixels.shape[:2]
    shape = max(geometry.height, geometry.width) / min(geometry.height, geometry.width)
    limit = int(min(height, width) * _MAX_ASPECT * shape)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    return pixels[top : height - top, left : width - left]


def _scale(pixels: Pixels, size: Size, interpolation: str) -> torch.Tensor:
    """Uint8 [H, W, C] as uint8 [C, height, width] of `size`."""
    if pixels.shape[:2] != size and interpolation not in ("bilinear", "bicubic"):
        flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        picture = Image.fromarray(np.ascontiguousarray(flat))
        method = Image.Resampling[interpolation.upper()]
        pixels = np.array(picture.resize((size[1], size[0]), method))
        pixels = pixels.reshape(*size, -1)
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    if image.shape[2:] != size:
        image = F.interpolate(image, size, mode=interpolation, antialias=True)
    return image[0]


def _centre(image: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """The centre [C, height, width] of [C, H, W], filled up where that is smaller."""
    height, width = geometry.height, geometry.width
    top, left = round((image.shape[1] - height) / 2), round((image.shape[2] - width) / 2)
    image = image[:, max(0, top) :, max(0, left) :][:, :height, :width]
    if image.shape[1:] == (height, width):
        return image
    filled = image.new_full((len(image), height, width), geometry.fill)
    top, left = max(0, -top), max(0, -left)
    filled[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return filled
