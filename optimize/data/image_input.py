"""What a recipe's `input:` says of pictures: how a file becomes what the model takes."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from handlers.images import ImageSpec

Size = tuple[int, int]
Normalization = tuple[float | list[float], float | list[float]]
"""Mean and standard deviation in pixel units, 0..255: one number, or one per channel."""

_RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
_GEOMETRY = ("resize", "crop_pct", "resize_size")


@dataclass(frozen=True)
class ImageInput:
    """How pictures are scaled and normalised; what is None is left to the model or the data.

    Attributes:
        size: (height, width) that the model takes; one number for a square.
        resize: `crop` keeps the aspect and the centre, `squash` scales both sides, `letterbox`
            keeps the aspect and fills the borders.
        crop_pct: share of the scaled picture that the centre crop takes, as in timm.
        resize_size: instead, the size before the crop, as in torchvision: of the shorter side,
            or (height, width).
        interpolation: Pillow's filter of that name, antialiased.
        mean, std: of the values in `value_range`; one number, or one per channel.
        value_range: what pixels 0..255 become before `mean` and `std`; by default 0..1.
        color_order: of the channels; `grey` is one channel.
        fill: grey level, 0..255, of a letterbox's borders.
        where: file and line, for messages.
    """

    size: int | list[int] | None = None
    resize: Literal["crop", "squash", "letterbox"] | None = None
    crop_pct: float | None = None
    resize_size: int | list[int] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"] | None = (
        None
    )
    mean: float | list[float] | None = None
    std: float | list[float] | None = None
    value_range: Literal["0..255", "0..1", "-1..1"] | None = None
    color_order: Literal["RGB", "BGR", "grey"] | None = None
    fill: int | None = None
    where: tuple[str, int | None] = ("", None)

    def __post_init__(self) -> None:
        for name in ("size", "resize_size"):
            value = getattr(self, name)
            sides = value if isinstance(value, list) else [] if value is None else [value]
            if any(side < 1 for side in sides) or len(sides) not in ((0, 1, 2)):
                raise ValueError(f"{name} is one number or [height, width], from 1")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct is a share of the picture, not {self.crop_pct}")
        if self.crop_pct is not None and self.resize_size is not None:
            raise ValueError("crop_pct and resize_size say the same: keep one")
        if self.std is not None and min(_numbers(self.std)) <= 0:
            raise ValueError("std must be above 0")
        for name in ("mean", "std"):
            if len(_numbers(getattr(self, name))) not in (0, 1, 3):
                raise ValueError(f"{name} is one number, or one per channel")
        if self.mean is not None and self.value_range in (None, "0..1"):
            largest = max(_numbers(self.mean))
            if largest > 1:
                raise ValueError(
                    f"a mean of {largest:g} lies outside 0..1: set value_range: 0..255 if mean "
                    "and std are those of pixels"
                )
        if self.fill is not None and self.fill > 255:
            raise ValueError("fill is a grey level, 0..255")

    def over(self, other: "ImageInput") -> "ImageInput":
        """These options, and `other`'s where these say nothing."""
        given = {name: value for name, value in self.named().items() if value is not None}
        below = other.named()
        if {"resize", "crop_pct", "resize_size"} & given.keys():
            below |= dict.fromkeys(_GEOMETRY)
        elif "size" in given and other.size is not None and other.resize_size is not None:
            share = min(pair(other.size)) / min(pair(other.resize_size))
            below |= {"resize_size": None, "crop_pct": min(1.0, share)}
        if {"mean", "std", "value_range"} & given.keys():
            below |= dict.fromkeys(("mean", "std", "value_range"))
        return ImageInput(**{**below, **given}, where=self.where)

    def named(self) -> dict[str, Any]:
        """The options by name, without `where`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}

    @property
    def channels(self) -> int | None:
        """1 or 3, if the colour order says so."""
        return None if self.color_order is None else 1 if self.color_order == "grey" else 3

    def spec(self, size: Size, channels: int, **limits: int) -> ImageSpec:
        """The handler's form of these options, for a model that takes `size` and `channels`.

        Args:
            limits: `max_pixels` and `max_bytes`.
        """
        resize = self.resize or "crop"
        to: int | Size = 0
        if self.resize_size is not None:
            one = resize == "crop" and isinstance(self.resize_size, int)
            to = self.resize_size if one else pair(self.resize_size)  # type: ignore[assignment]
        elif self.crop_pct is not None:
            to = (math.floor(size[0] / self.crop_pct), math.floor(size[1] / self.crop_pct))
            if resize == "crop" and to[0] == to[1]:
                to = to[0]
        return ImageSpec(
            *size,
            channels,
            resize_size=to,
            resize=resize,
            interpolation=self.interpolation or "bilinear",
            color_order="BGR" if self.color_order == "BGR" else "RGB",
            fill=self.fill or 0,
            **limits,
        )

    def normalization(self) -> Normalization | None:
        """Mean and std in pixel units; None if the options say nothing of values."""
        if self.mean is None and self.std is None and self.value_range is None:
            return None
        low, high = _RANGES[self.value_range or "0..1"]
        step = 255.0 / (high - low)
        mean = [(value - low) * step for value in _numbers(self.mean) or [0.0]]
        std = [value * step for value in _numbers(self.std) or [1.0]]
        return _one_or_many(mean), _one_or_many(std)


def pair(size: int | list[int]) -> Size:
    """(height, width) of a size."""
    sides = [size] if isinstance(size, int) else size
    return sides[0], sides[-1]


def card_input(spec: ImageSpec, values: ImageInput) -> dict[str, Any]:
    """The card's `input`: what the handler does, and what model.pt does to the values."""
    to = spec.resize_size
    entry: dict[str, Any] = {
        "size": [spec.height, spec.width],
        "channels": spec.channels,
        "resize": spec.resize,
        "resize_size": to if isinstance(to, int) else list(to),
        "interpolation": spec.interpolation,
        "color_order": "grey" if spec.channels == 1 else spec.color_order,
    }
    if spec.resize == "letterbox":
        entry["fill"] = spec.fill
    said = {name: getattr(values, name) for name in ("mean", "std", "value_range")}
    return entry | {name: value for name, value in said.items() if value is not None}


def describe(spec: ImageSpec) -> str:
    """A spec in words: `224x224 RGB, crop from 256, bicubic`."""
    to = spec.resize_size
    whole = min(spec.height, spec.width) if spec.resize == "crop" else (spec.height, spec.width)
    before = "" if to == whole else f" from {to if isinstance(to, int) else f'{to[0]}x{to[1]}'}"
    order = "grey" if spec.channels == 1 else spec.color_order
    size = f"{spec.height}x{spec.width} {order}"
    return f"{size}, {spec.resize}{before}, {spec.interpolation}"


def _numbers(value: float | list[float] | None) -> list[float]:
    if value is None:
        return []
    return [float(v) for v in value] if isinstance(value, list) else [float(value)]


def _one_or_many(values: list[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else values
