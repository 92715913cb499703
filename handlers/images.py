"""Image files to model input: decode, resize, centre crop, uint8 [C, H, W].

The same functions pre-process in the worker and in `optimize`, so accuracy is
measured on exactly what is served. They use no torchvision: JPEGs go through
libjpeg-turbo with DCT scaling where the picture stays well above the target
size, everything else through Pillow.

`handlers.resizing` brings a picture to the model's size. Transparency is composited on
white. EXIF orientation is applied.
"""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from handlers import resizing
from handlers.errors import ModelError, RequestError
from handlers.image_cost import check_claim, decoded_pixels, pixel_cost
from handlers.image_header import ImageHeader, read_header
from handlers.image_still import still_gif, still_png
from handlers.resizing import Pixels, Size

DEFAULT_MAX_PIXELS = 33_554_432
DEFAULT_MAX_DECODED_PIXELS = 16_777_216
DEFAULT_MAX_BYTES = 10_485_760
# Pixels that are converted at a time, to hold one copy of a picture and not five.
_STRIP_PIXELS = 65_536

# A JPEG is decoded at 1/2, 1/4 or 1/8 only while its shorter side stays this many
# times the resized one: the DCT's filter is sharper than ours; resizing the rest hides that.
_DCT_HEADROOM = 1.5
_ORIENTATION = 0x0112

COLOR_ORDERS = ("RGB", "BGR", "grey")

# Broken metadata in clients' files is not worth a line of the worker's log.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")


@dataclass(frozen=True)
class ImageSpec:
    """What the model takes, from the card's `input`.

    `height`, `width`, `channels` (1 luma, 3 colours) of the tensor; limits per image;
    `resize_size`, `resize`, `interpolation` and `fill` as in `handlers.resizing`;
    `color_order`, that of the three colours, RGB or BGR. `max_pixels` is what a file may be,
    `max_decoded_pixels` what is made of it: JPEGs are decoded to a part of their size.
    """

    height: int
    width: int
    channels: int = 3
    resize_size: int | Size = 0
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_bytes: int = DEFAULT_MAX_BYTES
    resize: str = "crop"
    interpolation: str = "bilinear"
    color_order: str = "RGB"
    fill: int = 0
    max_decoded_pixels: int = DEFAULT_MAX_DECODED_PIXELS

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or self.height < 1 or self.width < 1:
            raise ModelError(
                "the model card's input needs positive sizes and 1 or 3 channels, "
                f"not {self.height}x{self.width}x{self.channels}"
            )
        for value, known in (
            (self.resize, resizing.RESIZES),
            (self.interpolation, resizing.INTERPOLATIONS),
            (self.color_order, COLOR_ORDERS),
        ):
            if value not in known:
                raise ModelError(f"the model card's input says {value!r}, not {', '.join(known)}")
        if not self.resize_size:
            crop = self.resize == "crop"
            size = min(self.height, self.width) if crop else (self.height, self.width)
            object.__setattr__(self, "resize_size", size)

    @classmethod
    def from_card(cls, entry: Mapping[str, Any]) -> "ImageSpec":
        """Build from the `input` object of a model card; ModelError where it is wrong."""
        try:
            size = _pair(entry["size"])
            # Cards of earlier releases say `resize: 256` for `resize: crop, resize_size: 256`.
            resize, to = entry.get("resize") or "crop", entry.get("resize_size") or 0
            if not isinstance(resize, str):
                resize, to = "crop", resize
            return cls(
                height=size[0],
                width=size[1],
                channels=int(entry.get("channels", 3)),
                resize_size=_pair(to) if isinstance(to, list) else int(to),
                resize=resize,
                interpolation=str(entry.get("interpolation", "bilinear")),
                color_order=str(entry.get("color_order", "RGB")),
                fill=int(entry.get("fill", 0)),
                max_pixels=int(entry.get("max_pixels", DEFAULT_MAX_PIXELS)),
                max_bytes=int(entry.get("max_bytes", DEFAULT_MAX_BYTES)),
                max_decoded_pixels=int(entry.get("max_decoded_pixels", DEFAULT_MAX_DECODED_PIXELS)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f'the model card\'s input must look like {{"size": [H, W], ...}}: {error!r}'
            ) from error


def _pair(value: Any) -> Size:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"{value!r} is not [height, width]")
    return int(value[0]), int(value[1])


def load_image(data: bytes, spec: ImageSpec) -> torch.Tensor:
    """An image file as the model's input, uint8 [C, height, width], 0..255.

    Raises RequestError: 400 undecodable, 413 over a limit (before decoding), 415
    a type not served, 422 zero-sized.
    """
    header = check_image(data, spec)
    return fit_pixels(_decode(data, header, spec.channels, _dct_divisor(header, spec)), spec)


def image_cost(data: bytes, spec: ImageSpec) -> float:
    """The cost of `load_image`, in pixels; its errors but those that only decoding finds."""
    header = check_image(data, spec)
    return pixel_cost(header, _dct_divisor(header, spec))


def decode_image(data: bytes, spec: ImageSpec) -> torch.Tensor:
    """An image file at its own size, uint8 [C, H, W]; the same errors as load_image."""
    pixels = _decode(data, check_image(data, spec), spec.channels, 1)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def check_image(data: bytes, spec: ImageSpec) -> ImageHeader:
    """The file's header, within the spec's limits, without decoding anything."""
    if len(data) > spec.max_bytes:
        raise RequestError(
            413, "too_many_bytes", f"{len(data)} bytes of image, the limit is {spec.max_bytes}"
        )
    if not data:
        raise RequestError(400, "empty_input", "the image is empty")
    header = read_header(data)
    check_pixels(header.width, header.height, spec)
    check_claim(header, len(data))
    decoded = decoded_pixels(header, _dct_divisor(header, spec))
    if decoded > spec.max_decoded_pixels:
        raise RequestError(
            413,
            "too_many_pixels",
            f"{decoded} pixels to decode, the limit is {spec.max_decoded_pixels}: send a smaller "
            f"{header.format}, or a JPEG",
        )
    return header


def check_pixels(width: int, height: int, spec: ImageSpec) -> None:
    """Raise 413 when width x height is over the limit."""
    if width * height > spec.max_pixels:
        raise RequestError(
            413,
            "too_many_pixels",
            f"{width}x{height} pixels, the limit is {spec.max_pixels} in all",
        )


def fit_pixels(pixels: Pixels, spec: ImageSpec) -> torch.Tensor:
    """Uint8 pixels [H, W, C], RGB or grey, as the model's input, uint8 [C, height, width]."""
    return in_order(resizing.fit(pixels, spec), spec)


def in_order(image: torch.Tensor, spec: ImageSpec) -> torch.Tensor:
    """An RGB or grey image [C, H, W] with its channels in the model's order."""
    return image.flip(0) if spec.color_order == "BGR" and len(image) == 3 else image


def _dct_divisor(header: ImageHeader, spec: ImageSpec) -> int:
    # Nearest takes single pixels: it must see those that there are.
    if header.format != "JPEG" or spec.interpolation == "nearest":
        return 1
    # The file is turned as its EXIF orientation says later, so the longer side counts for both.
    scaled = resizing.scaled_size(header.height, header.width, spec)
    shorter = min(scaled) if spec.resize == "crop" else max(scaled)
    for divisor in (8, 4, 2):
        if min(header.height, header.width) >= divisor * _DCT_HEADROOM * shorter:
            return divisor
    return 1


def _decode(data: bytes, header: ImageHeader, channels: int, divisor: int) -> Pixels:
    """Oriented pixels [H, W, channels]; a view with any strides."""
    if header.format == "JPEG" and header.components in (1, 3):
        try:
            return _orient(_decode_jpeg(data, header, channels, divisor), _exif(header.exif))
        except ValueError:
            pass  # damaged: Pillow decides whether a picture is left
    return _decode_pillow(data, header, channels, divisor)


def _decode_jpeg(data: bytes, header: ImageHeader, channels: int, divisor: int) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(
        data,
        colorspace="RGB" if channels == 3 else "GRAY",
        # Pixels that are scaled down afterwards need no smooth chroma.
        fastupsample=divisor > 1,
        min_height=-(-header.height // divisor) if divisor > 1 else 0,
        min_width=-(-header.width // divisor) if divisor > 1 else 0,
    )
    return pixels


def _exif(block: bytes) -> int:
    """The orientation 1..8 from a JPEG's Exif block; 1 where there is none or it is broken."""
    if not block:
        return 1
    exif = Image.Exif()
    try:
        exif.load(block)
        orientation = exif.get(_ORIENTATION, 1)
    except Exception:  # any damage in metadata is no reason to refuse the picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _orient(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (Exif 2.32, tag 0x0112) by views, copying nothing."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _decode_pillow(data: bytes, header: ImageHeader, channels: int, divisor: int) -> Pixels:
    try:
        with Image.open(_still(data, header), formats=(header.format,)) as image:
            if image.width * image.height > header.width * header.height:
                raise RequestError(
                    400, "undecodable_image", f"the {header.format} lies about its size"
                )
            if divisor > 1:
                image.draft("", (-(-header.width // divisor), -(-header.height // divisor)))
            pixels = flatten(image, channels)
            orientation = image.getexif().get(_ORIENTATION, 1)
    except (RequestError, MemoryError):
        raise
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise RequestError(
            400,
            "undecodable_image",
            f"the {header.format} is damaged or cut short ({type(error).__name__}: {error})",
        ) from error
    return _orient(pixels, orientation if isinstance(orientation, int) else 1)


def _still(data: bytes, header: ImageHeader) -> io.BytesIO:
    """The file without what is not its first picture."""
    still = {"PNG": still_png, "GIF": still_gif}.get(header.format)
    return io.BytesIO(data if still is None else still(data))


def flatten(image: Image.Image, channels: int) -> Pixels:
    """Any Pillow image as uint8 [H, W, channels], transparency on white, a strip at a time."""
    image.load()
    rows = max(1, _STRIP_PIXELS // image.width)
    if image.height <= rows:
        return _strip(image, channels)
    flat = np.empty((image.height, image.width, channels), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        flat[top:bottom] = _strip(image.crop((0, top, image.width, bottom)), channels)
    return flat


def _strip(image: Image.Image, channels: int) -> Pixels:
    """Any Pillow mode as uint8 [H, W, channels]."""
    if image.mode.startswith("I"):
        wide = np.array(image).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[wide == clear] = 255
        return np.repeat(grey[:, :, None], channels, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        backdrop = Image.new("RGBA", rgba.size, "white")
        backdrop.alpha_composite(rgba)
        image = backdrop
    flat = np.array(image.convert("RGB" if channels == 3 else "L"))
    return flat.reshape(flat.shape[0], flat.shape[1], channels)
