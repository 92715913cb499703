"""Request bodies that are valid and cost as much as they can: small ones that unfold, big ones
within their limits, and what is just beyond. They suit any image classifier whose card keeps the
default limits, and are the same on every run.
"""

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.unit.corpus import JSON, png_chunk


@dataclass(frozen=True)
class Expensive:
    """A request body, its Content-Type and the status that it gets."""

    name: str
    body: bytes
    content_type: str
    status: int


def expensive(scale: int = 1) -> list[Expensive]:
    """The whole corpus, cheap to make; sides of pictures and lengths of lists grow with `scale`,
    which at 4 reaches the limits."""
    cases = [*_claims(), *_pictures(scale), *_many(scale), *_json(scale), *_pieces(scale)]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """An image file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def flat(mode: str, width: int, height: int) -> Image.Image:
    """A picture of one colour."""
    return Image.new(mode, (width, height))


def noisy(width: int, height: int) -> Image.Image:
    """A picture that hardly compresses."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def lossless(width: int, height: int) -> bytes:
    """Forty bytes of WebP that are that many transparent pixels."""
    bits = (width - 1) | (height - 1) << 14 | 1 << 28
    # No transform, no cache, no second code; five simple codes of one symbol each.
    chunk = b"\x2f" + bits.to_bytes(4, "little") + b"\x88\x88\x08" + bytes(11)
    chunk += bytes(len(chunk) % 2)
    body = b"WEBPVP8L" + struct.pack("<I", len(chunk)) + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _claims() -> Iterator[Expensive]:
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})):
        body = saved(flat("L" if format == "GIF" else "RGBA", 5000, 3000), format, **options)
        yield Expensive(f"a flat {format}", body, "", 200 if format == "PNG" else 413)
    tiny = base64.b64encode(lossless(16383, 2048)).decode()
    body = json.dumps({"instances": [{"b64": tiny}] * 64}).encode()
    yield Expensive("64 tiny files of 33 megapixels", body, JSON, 413)


def _pictures(scale: int) -> Iterator[Expensive]:
    side = 1000 * scale
    for name, image, format, options in (
        ("transparent", flat("RGBA", side, side), "PNG", {}),
        ("sixteen bits", flat("I;16", side, side), "PNG", {}),
        ("one bit", noisy(side, side).convert("1"), "PNG", {}),
        ("a strip", flat("RGB", 60_000, 4 * scale), "PNG", {}),
        ("a phone's", noisy(side, 3 * side // 4), "JPEG", {"quality": 40}),
        ("progressive", noisy(side, 3 * side // 4), "JPEG", {"quality": 40, "progressive": True}),
        ("CMYK", flat("CMYK", side, side), "JPEG", {}),
        ("lossy", noisy(side // 2, side // 2), "WEBP", {"method": 0}),
    ):
        yield Expensive(f"{format}, {name}", saved(image, format, **options), "", 200)
    body = saved(flat("RGB", side, side), "JPEG", progressive=True)
    scan = body[body.rindex(b"\xff\xda") : -2]
    body = body[:-2] + scan * (60 - body.count(b"\xff\xda")) + b"\xff\xd9"
    yield Expensive("JPEG, sixty scans", body, "", 200)
    yield Expensive("JPEG, damaged", body[: len(body) // 2], "", 400)


def _many(scale: int) -> Iterator[Expensive]:
    for count, side, status in ((64, 200 * scale, 200), (64, 1200, 413), (65, 10, 413)):
        picture = base64.b64encode(saved(flat("RGBA", side, side), "PNG")).decode()
        body = json.dumps({"instances": [picture] * count}).encode()
        yield Expensive(f"{count} pictures of {side}", body, JSON, status)


def _json(scale: int) -> Iterator[Expensive]:
    side = 256 * scale
    pixels = b"[" + b",".join([b"[" + b",".join([b"[1,2,3]"] * side) + b"]"] * side) + b"]"
    yield Expensive("pixels as JSON", pixels, JSON, 200)
    many = 3_000_000 * scale
    yield Expensive("empty lists", b"[" + b"[]," * many + b"[]]", JSON, 413)
    yield Expensive("numbers", b"[" + b"1," * (3 * many) + b"1]", JSON, 413)
    yield Expensive("strings", b"[" + b'"",' * many + b'""]', JSON, 413)
    yield Expensive("deep", b"[" * 100_000 + b"]" * 100_000, JSON, 400)
    spaces = b'{"b64": "' + b" " * (2 * many) + b'"}'
    yield Expensive("spaces in base64", spaces, JSON, 400)
    yield Expensive("a long text", b"a" * (2 * many), "text/plain", 415)


def _pieces(scale: int) -> Iterator[Expensive]:
    png = saved(flat("RGB", 300, 300), "PNG")
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    for name, chunk, count in (("texts", text, 60), ("chunks", png_chunk(b"tEXt", b""), 60_000)):
        yield Expensive(f"PNG, many {name}", png[:33] + chunk * count + png[33:], "", 200)
    gif = saved(flat("L", 300, 300), "GIF")
    comment = b"\x21\xfe" + b"\x01a" * 60_000 + b"\x00"
    frame = gif.index(b",", 13 + (3 << (gif[10] & 7) + 1))
    yield Expensive("GIF, a long comment", gif[:frame] + comment + gif[frame:], "", 200)
    endless = gif[:frame] + b"\x21\xfe" + b"\x01a" * 2_000_000 * scale + b"\x00" + gif[frame:]
    yield Expensive("GIF, an endless comment", endless, "", 413)
