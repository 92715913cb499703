"""What an image file says about itself before a single pixel is decoded.

Only the first bytes are read and nothing is allocated, so that a file which
claims a gigapixel canvas is refused for the price of a few comparisons.
Layouts: JPEG ITU-T T.81 B.2, PNG (W3C) 11.2.2, GIF89a 18-20, WebP RFC 9649.
"""

import re
from dataclasses import dataclass

from handlers.errors import RequestError

# A JPEG of several scans pays one pass over the whole picture for each.
MAX_JPEG_SCANS = 64
# Of texts and other extensions before a GIF's first frame, each up to 255 bytes.
MAX_GIF_BLOCKS = 65_536
# What ends a scan's data: not a stuffed zero, not a restart.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")

_UNSUPPORTED = (
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"8BPS", "Photoshop"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"qoif", "QOI"),
    (b"OggS", "Ogg"),
    (b"ID3", "MP3"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML"),
    (b"<!DOCTYPE", "HTML"),
    (b"<html", "HTML"),
)
_ACCEPTED = "JPEG, PNG, WebP or GIF"


@dataclass(frozen=True)
class ImageHeader:
    """Format name as Pillow spells it, size in pixels, and JPEG's extras."""

    format: str
    width: int
    height: int
    components: int = 0
    exif: bytes = b""
    scans: int = 0
    progressive: bool = False


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file.

    Raises RequestError: 415 for a known type that is not served, 400 where the
    header is unknown or cut short, 422 for a side of zero pixels.
    """
    if data[:3] == b"\xff\xd8\xff":
        header = _jpeg(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        header = _png(data)
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        header = _gif(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        header = _webp(data)
    else:
        raise _unknown(data)
    if header.width == 0 or header.height == 0:
        raise RequestError(
            422,
            "zero_size",
            f"the {header.format} is {header.width}x{header.height} pixels: nothing to see",
        )
    return header


def _unknown(data: bytes) -> RequestError:
    for magic, name in _UNSUPPORTED:
        if data.startswith(magic):
            return RequestError(
                415, "unsupported_type", f"{name} is not accepted: send {_ACCEPTED}"
            )
    if data[4:8] == b"ftyp":
        return RequestError(
            415, "unsupported_type", f"HEIF, AVIF or MP4 is not accepted: send {_ACCEPTED}"
        )
    if data[:4] == b"RIFF":
        return RequestError(
            415, "unsupported_type", f"WAV or AVI is not accepted: send {_ACCEPTED}"
        )
    return RequestError(400, "undecodable_image", f"not an image we know: send {_ACCEPTED}")


def _truncated(name: str) -> RequestError:
    return RequestError(400, "undecodable_image", f"the {name}'s header is cut short or broken")


def _jpeg(data: bytes) -> ImageHeader:
    exif = b""
    at, end = 2, len(data)
    while at + 4 <= end:
        if data[at] != 0xFF:
            # Decoders skip stray bytes up to the next marker; so must we, to see what they see.
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker in (0xD9, 0xDA):
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _jpeg_frame(data, at + 4, marker, exif)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\x00\x00":
            exif = data[at + 4 : at + 2 + length]
        at += 2 + length
    raise _truncated("JPEG")


def _jpeg_frame(data: bytes, at: int, marker: int, exif: bytes) -> ImageHeader:
    frame = data[at : at + 6]
    if len(frame) < 6:
        raise _truncated("JPEG")
    if frame[0] != 8:
        raise RequestError(
            415, "unsupported_type", f"{frame[0]}-bit JPEG is not accepted: send 8-bit"
        )
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    scans, progressive = _scans(data, at), marker in (0xC2, 0xCA)
    return ImageHeader("JPEG", width, height, frame[5], exif, scans, progressive)


def _scans(data: bytes, at: int) -> int:
    """How many scans there are to the end of the picture; a phone's video may follow it.

    Raises RequestError 413 for more than MAX_JPEG_SCANS.
    """
    scans = 0
    while (found := _MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == 0xD9:
            break
        if marker == 0xDA:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                raise RequestError(
                    413, "too_many_scans", f"the JPEG has more than {MAX_JPEG_SCANS} scans"
                )
        if marker >= 0xC0 and marker != 0xD8:  # those below have no length, nor has a second start
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def _png(data: bytes) -> ImageHeader:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise _truncated("PNG")
    return ImageHeader(
        "PNG", int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    )


def _gif(data: bytes) -> ImageHeader:
    """The canvas, widened to the first frame where that reaches beyond it."""
    if len(data) < 13:
        raise _truncated("GIF")
    width, height = _le16(data, 6), _le16(data, 8)
    flags, at, end = data[10], 13, len(data)
    blocks = 0
    if flags & 0x80:
        at += 3 << ((flags & 7) + 1)
    while at < end:
        if data[at] == 0x2C and at + 10 <= end:
            width = max(width, _le16(data, at + 1) + _le16(data, at + 5))
            height = max(height, _le16(data, at + 3) + _le16(data, at + 7))
            return ImageHeader("GIF", width, height)
        if data[at] == 0x21:  # extension: a label, then sub-blocks up to an empty one
            at += 2
            while at < end and data[at]:
                at += 1 + data[at]
                blocks += 1
                if blocks > MAX_GIF_BLOCKS:
                    raise RequestError(
                        413, "too_many_blocks", f"more than {MAX_GIF_BLOCKS} blocks before a frame"
                    )
        elif data[at] == 0x3B:
            break
        at += 1
    raise _truncated("GIF")


def _webp(data: bytes) -> ImageHeader:
    if len(data) < 30:
        raise _truncated("WebP")
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = _le16(data, 26) & 0x3FFF, _le16(data, 28) & 0x3FFF
    else:
        raise _truncated("WebP")
    return ImageHeader("WEBP", width, height)


def _le16(data: bytes, at: int) -> int:
    return data[at] | data[at + 1] << 8
