"""Image files to model input: decode, resize, centre crop, uint8 [C, H, W].

The same functions pre-process in the worker and in `optimize`, so accuracy is
measured on exactly what is served. They use no torchvision: JPEGs go through
libjpeg-turbo with DCT scaling where the picture stays well above the target
size, everything else through Pillow; both are resized by PyTorch's uint8
antialiased bilinear filter, which agrees with Pillow's to one grey level.

Geometry is that of `Resize(resize)` then `CenterCrop(size)`. A crop that would
not fit enlarges the picture instead of padding it. Transparency is composited
on white. EXIF orientation is applied.
"""

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
import torch.nn.functional as F
from PIL import Image

from handlers.errors import ModelError, RequestError
from handlers.image_header import ImageHeader, read_header

Pixels = npt.NDArray[np.uint8]

DEFAULT_MAX_PIXELS = 33_554_432
DEFAULT_MAX_BYTES = 10_485_760

# A JPEG is decoded at 1/2, 1/4 or 1/8 only while its shorter side stays this many
# times the resized one: the DCT's filter is sharper than ours; resizing the rest hides that.
_DCT_HEADROOM = 1.5
_MAX_ASPECT = 4
_ORIENTATION = 0x0112

# Broken metadata in clients' files is not worth a line of the worker's log.
warnings.filterwarnings("ignore", "Corrupt EXIF data", UserWarning, r"PIL\.")


@dataclass(frozen=True)
class ImageSpec:
    """What the model takes, from the card's `input`.

    `height`, `width`, `channels` (1 luma, 3 RGB) of the tensor; `resize`, the
    length in pixels of the shorter side before the centre crop; limits per image.
    """

    height: int
    width: int
    channels: int = 3
    resize: int = 0
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_bytes: int = DEFAULT_MAX_BYTES

    def __post_init__(self) -> None:
        if self.channels not in (1, 3) or self.height < 1 or self.width < 1:
            raise ModelError(
                "the model card's input needs positive sizes and 1 or 3 channels, "
                f"not {self.height}x{self.width}x{self.channels}"
            )
        if self.resize < 1:
            object.__setattr__(self, "resize", min(self.height, self.width))

    @classmethod
    def from_card(cls, entry: Mapping[str, Any]) -> "ImageSpec":
        """Build from the `input` object of a model card; ModelError where it is wrong."""
        try:
            size = entry["size"]
            if not isinstance(size, list | tuple) or len(size) != 2:
                raise ValueError(f"size is {size!r}")
            return cls(
                height=int(size[0]),
                width=int(size[1]),
                channels=int(entry.get("channels", 3)),
                resize=int(entry.get("resize") or 0),
                max_pixels=int(entry.get("max_pixels", DEFAULT_MAX_PIXELS)),
                max_bytes=int(entry.get("max_bytes", DEFAULT_MAX_BYTES)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f'the model card\'s input must look like {{"size": [H, W], ...}}: {error!r}'
            ) from error


def load_image(data: bytes, spec: ImageSpec) -> torch.Tensor:
    """An image file as the model's input, uint8 [C, height, width], 0..255.

    Raises RequestError: 400 undecodable, 413 over a limit (before decoding), 415
    a type not served, 422 zero-sized.
    """
    header = check_image(data, spec)
    return fit_pixels(_decode(data, header, spec.channels, _dct_divisor(header, spec)), spec)


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
    """Resize and centre-crop uint8 pixels [H, W, C] to uint8 [C, height, width]."""
    pixels = _without_far_ends(pixels, spec)
    if min(pixels.strides) < 0:
        pixels = np.ascontiguousarray(pixels)
    image = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
    size = _resized(pixels.shape[0], pixels.shape[1], spec)
    if image.shape[2:] != size:
        image = F.interpolate(image, size, mode="bilinear", antialias=True)
    top = round((size[0] - spec.height) / 2)
    left = round((size[1] - spec.width) / 2)
    image = image[0, :, top : top + spec.height, left : left + spec.width]
    return image.clone(memory_format=torch.contiguous_format)


def _without_far_ends(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """The middle of a long strip: its ends never reach the crop, yet would be resized."""
    height, width = pixels.shape[:2]
    shape = max(spec.height, spec.width) / min(spec.height, spec.width)
    limit = int(min(height, width) * _MAX_ASPECT * shape)
    top, left = max(0, height - limit) // 2, max(0, width - limit) // 2
    return pixels[top : height - top, left : width - left]


def _resized(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """Height and width after resizing, both at least the crop's."""
    shorter = min(height, width)
    resized = (spec.resize * height // shorter, spec.resize * width // shorter)
    if resized[0] < spec.height or resized[1] < spec.width:
        # The crop would not fit: enlarge until it does, instead of padding.
        scale = max(spec.height / height, spec.width / width)
        resized = (
            max(spec.height, round(height * scale)),
            max(spec.width, round(width * scale)),
        )
    return resized


def _dct_divisor(header: ImageHeader, spec: ImageSpec) -> int:
    if header.format != "JPEG":
        return 1
    resized = min(_resized(header.height, header.width, spec))
    for divisor in (8, 4, 2):
        if min(header.height, header.width) >= divisor * _DCT_HEADROOM * resized:
            return divisor
    return 1


def _decode(data: bytes, header: ImageHeader, channels: int, divisor: int) -> Pixels:
    """Oriented pixels [H, W, channels]; a view with any strides."""
    if header.format == "JPEG" and header.components in (1, 3):
        try:
            return _orient(_decode_jpeg(data, header, channels, divisor), _exif(header.exif))
        except ValueError:
            pass  # damaged: Pillow decides whether a picture is left
    return _decode_pillow(data, header, channels)


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


def _decode_pillow(data: bytes, header: ImageHeader, channels: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(data), formats=(header.format,)) as image:
            if image.width * image.height > header.width * header.height:
                raise RequestError(
                    400, "undecodable_image", f"the {header.format} lies about its size"
                )
            pixels = _flatten(image, channels)
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


def _flatten(image: Image.Image, channels: int) -> Pixels:
    """Any Pillow mode as uint8 [H, W, channels], transparency on white."""
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
