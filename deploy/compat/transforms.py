"""The transforms of `torchvision.transforms` that TorchServe's handlers use, over Pillow and torch.

For a worker where torchvision is not installed; each gives what torchvision's gives for a Pillow
picture.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(enum.Enum):
    """How a picture is resized."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"
    BOX = "box"
    HAMMING = "hamming"


class Compose:
    """Transforms one after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, img: Any) -> Any:
        for transform in self.transforms:
            img = transform(img)
        return img


class Lambda:
    """A function as a transform."""

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        self.lambd = lambd

    def __call__(self, img: Any) -> Any:
        return self.lambd(img)


class Resize:
    """To `(height, width)`, or with one number until the shorter side is that long."""

    def __init__(
        self,
        size: int | Sequence[int],
        interpolation: Any = InterpolationMode.BILINEAR,
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        if max_size is not None:
            raise ValueError("Resize(max_size=...) needs torchvision installed")
        self.size = [size] if isinstance(size, int) else [*size]
        name = getattr(interpolation, "name", None)
        self.filter = Image.Resampling[name] if name else Image.Resampling(interpolation)

    def __call__(self, img: Image.Image) -> Image.Image:
        width, height = _picture(img, "Resize").size
        if len(self.size) == 2:
            wanted = (self.size[1], self.size[0])
        else:
            side = self.size[0]
            if width <= height:
                wanted = (side, int(side * height / width))
            else:
                wanted = (int(side * width / height), side)
        return img if wanted == (width, height) else img.resize(wanted, self.filter)


class CenterCrop:
    """The middle `(height, width)`; what a smaller picture lacks is black."""

    def __init__(self, size: int | Sequence[int]) -> None:
        sides = [size] if isinstance(size, int) else [*size]
        self.height, self.width = sides[0], sides[-1]

    def __call__(self, img: Image.Image) -> Image.Image:
        width, height = _picture(img, "CenterCrop").size
        if self.width > width or self.height > height:
            left = (self.width - width) // 2 if self.width > width else 0
            top = (self.height - height) // 2 if self.height > height else 0
            padded = Image.new(img.mode, (max(width, self.width), max(height, self.height)))
            padded.paste(img, (left, top))
            img, (width, height) = padded, padded.size
        left, top = round((width - self.width) / 2.0), round((height - self.height) / 2.0)
        return img.crop((left, top, left + self.width, top + self.height))


class Grayscale:
    """In grey, in one channel or three alike."""

    def __init__(self, num_output_channels: int = 1) -> None:
        self.channels = num_output_channels

    def __call__(self, img: Image.Image) -> Image.Image:
        grey = _picture(img, "Grayscale").convert("L")
        return grey if self.channels == 1 else Image.merge("RGB", [grey] * 3)


class ToTensor:
    """A picture or array of uint8 `[H, W, C]` as float32 `[C, H, W]` of 0..1."""

    def __call__(self, pic: Any) -> Tensor:
        if isinstance(pic, Image.Image) and pic.mode == "1":
            pic = pic.convert("L")
            array = np.array(pic, copy=True)
        else:
            array = np.array(pic, copy=True)
        if array.ndim == 2:
            array = array[:, :, None]
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous()
        return tensor.float().div(255) if tensor.dtype is torch.uint8 else tensor


class Normalize:
    """Each channel of a float tensor less its mean, over its standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace

    def __call__(self, tensor: Tensor) -> Tensor:
        mean, std = (
            torch.as_tensor(values, dtype=tensor.dtype, device=tensor.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return tensor.sub_(mean).div_(std) if self.inplace else tensor.sub(mean).div(std)


def _picture(img: Any, name: str) -> Image.Image:
    if not isinstance(img, Image.Image):
        raise TypeError(f"{name} of a {type(img).__name__} needs torchvision installed")
    return img
