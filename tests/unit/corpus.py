"""Over two hundred malformed request bodies, each with the status it must get.

The bodies suit any image classifier whose card keeps the default limits and has
fewer than a million labels. They are the same on every run.
"""

import base64
import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

JSON = "application/json"
OCTETS = "application/octet-stream"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")


@dataclass(frozen=True)
class Malformed:
    """A request body, its Content-Type ("" for none) and the status of the answer."""

    name: str
    body: bytes
    content_type: str
    status: int


def malformed() -> list[Malformed]:
    """The whole corpus, in a fixed order, names unique."""
    cases = [
        *_empty(),
        *_garbage(),
        *_truncated(),
        *_huge(),
        *_zero_sized(),
        *_foreign_types(),
        *_broken_png(),
        *_bad_json(),
        *_bad_tensors(),
        *_bad_base64(),
        *_bad_objects(),
        *_bad_parameters(),
    ]
    assert len({case.name for case in cases}) == len(cases)
    return cases


def picture(format: str = "PNG", size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """A real image file: smooth colours under some noise, so that it compresses and differs."""
    width, height = size
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    pixels = (ramp + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int, *more: bytes) -> bytes:
    """A PNG whose header claims a size and whose data are sixteen zero bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(bytes(16)))
    chunks = png_chunk(b"IHDR", header) + b"".join(more) + data + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def jpeg_claiming(width: int, height: int, precision: int = 8) -> bytes:
    """A JPEG whose frame header claims a size, followed by nothing to decode."""
    frame = (
        struct.pack(">BHHB", precision, height, width, 3) + b"\x01\x22\x00\x02\x11\x01\x03\x11\x01"
    )
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame + b"\xff\xd9"


def gif_claiming(width: int, height: int, frame: tuple[int, int] = (1, 1)) -> bytes:
    """A GIF with a canvas size and a first frame of another."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"


def webp_claiming(width: int, height: int, kind: bytes = b"VP8X") -> bytes:
    """A WebP whose first chunk claims a size."""
    if kind == b"VP8X":
        chunk = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        chunk = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + bytes(8)
    else:
        chunk = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(8)
    body = b"WEBP" + kind + struct.pack("<I", len(chunk)) + chunk
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _empty() -> Iterator[Malformed]:
    for kind in ("", OCTETS, "image/jpeg", "image/png", JSON):
        yield Malformed(f"empty {kind}", b"", kind, 400)
    yield Malformed("empty text", b"", "text/plain", 415)


def _garbage() -> Iterator[Malformed]:
    rng = random.Random(1)
    for index, length in enumerate((1, 2, 3, 4, 7, 8, 12, 33, 100, 1000, 4096, 65536)):
        body = b"\xf1" + rng.randbytes(length - 1)
        for kind in ("", OCTETS, "image/jpeg"):
            yield Malformed(f"garbage {index} as {kind}", body, kind, 400)
        yield Malformed(f"garbage {index} as pdf", body, "application/pdf", 415)
    magics = {
        "JPEG": b"\xff\xd8\xff\xe0",
        "PNG": b"\x89PNG\r\n\x1a\n",
        "GIF": b"GIF89a",
        "WEBP": b"RIFF\x00\x00\x00\x00WEBP",
    }
    for name, magic in magics.items():
        for length in (0, 1, 5, 20, 500):
            yield Malformed(f"{name} magic and {length} zeros", magic + bytes(length), "", 400)
        yield Malformed(f"{name} magic and text", magic + b"lorem ipsum " * 40, "", 400)
    for text in ("šťastné světlo", "图像", "🦆" * 50, "\u202eabc", "a\x00b"):
        yield Malformed(f"unicode {text[:3]!r}", text.encode(), OCTETS, 400)
        yield Malformed(f"unicode text {text[:3]!r}", text.encode(), "text/plain", 415)


def _truncated() -> Iterator[Malformed]:
    for format in FORMATS:
        whole = picture(format, (200, 150))
        for percent in (1, 3, 8, 15, 25, 40, 55, 70, 85):
            cut = whole[: len(whole) * percent // 100]
            yield Malformed(f"{format} cut at {percent}%", cut, f"image/{format.lower()}", 400)


def _huge() -> Iterator[Malformed]:
    for side in (8193, 20000, 50000, 65535):
        yield Malformed(f"JPEG of {side}", jpeg_claiming(side, side), "image/jpeg", 413)
        yield Malformed(f"GIF of {side}", gif_claiming(side, side), "image/gif", 413)
        yield Malformed(f"GIF frame of {side}", gif_claiming(1, 1, (side, side)), "", 413)
    for side in (8193, 30000, 65536, 2**24, 2**31 - 1, 2**32 - 1):
        yield Malformed(f"PNG of {side}", png_claiming(side, side), "image/png", 413)
    for side in (8193, 12000, 16383):
        for kind in (b"VP8X", b"VP8L", b"VP8 "):
            body = webp_claiming(side, side, kind)
            yield Malformed(f"WebP {kind!r} of {side}", body, "image/webp", 413)
    yield Malformed("WebP canvas of 2^24", webp_claiming(2**24, 2**24), "image/webp", 413)
    yield Malformed("PNG strip", png_claiming(2**31 - 1, 1), "image/png", 413)
    yield Malformed("eleven megabytes", b"\xff\xd8\xff\xe0" + bytes(11 << 20), "image/jpeg", 413)
    scans = picture("JPEG")[:2] + jpeg_claiming(64, 64)[2:-2].replace(b"\xff\xc0", b"\xff\xc2")
    yield Malformed("hundred scans", scans + b"\xff\xda\x00\x02" * 100, "image/jpeg", 413)


def _zero_sized() -> Iterator[Malformed]:
    for width, height in ((0, 0), (0, 9), (9, 0)):
        yield Malformed(f"PNG {width}x{height}", png_claiming(width, height), "", 422)
        yield Malformed(f"JPEG {width}x{height}", jpeg_claiming(width, height), "", 422)
        gif = gif_claiming(width, height, (width, height))
        yield Malformed(f"GIF {width}x{height}", gif, "", 422)
        yield Malformed(f"WebP {width}x{height}", webp_claiming(width, height, b"VP8 "), "", 422)


def _foreign_types() -> Iterator[Malformed]:
    for format in ("BMP", "TIFF", "ICO", "JPEG2000"):
        yield Malformed(f"real {format}", picture(format), OCTETS, 415)
    starts = {
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\x03\x04",
        "gzip": b"\x1f\x8b\x08",
        "psd": b"8BPS\x00\x01",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "xml": b"<?xml version='1.0'?>",
        "html": b"<!DOCTYPE html>",
        "avif": b"\x00\x00\x00\x20ftypavif",
        "mp4": b"\x00\x00\x00\x20ftypisom",
        "wav": b"RIFF\x24\x00\x00\x00WAVEfmt ",
        "ogg": b"OggS\x00\x02",
        "mp3": b"ID3\x04",
        "jxl": b"\x00\x00\x00\x0cJXL \r\n\x87\n",
        "qoi": b"qoif",
    }
    for name, start in starts.items():
        yield Malformed(f"{name} bytes", start + bytes(64), OCTETS, 415)
    for kind in ("text/html", "text/csv", "video/mp4", "audio/wav", "application/x-protobuf"):
        yield Malformed(f"declared {kind}", b"certainly not a picture", kind, 415)
    yield Malformed("12-bit JPEG", jpeg_claiming(64, 64, precision=12), "image/jpeg", 415)


def _broken_png() -> Iterator[Malformed]:
    whole = picture("PNG", (200, 150))
    body = whole.index(b"IDAT") + 8
    for index in range(8):
        at = body + index * (len(whole) - body - 40) // 8
        damaged = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        yield Malformed(f"PNG damaged at {index}/8", damaged, "image/png", 400)
    bomb = png_chunk(b"zTXt", b"k\x00\x00" + zlib.compress(bytes(32 << 20)))
    yield Malformed("PNG text bomb", png_claiming(4, 4, bomb), "image/png", 400)
    yield Malformed("PNG without pixels", png_claiming(400, 400), "image/png", 400)


def _bad_json() -> Iterator[Malformed]:
    texts = (
        b"{",
        b"[",
        b"}",
        b'{"data"',
        b'{"data":',
        b'{"data": [1, 2',
        b'{"data": }',
        b'{"data": 1,}',
        b"{'data': 1}",
        b"nul",
        b"NaNaN",
        b'"unterminated',
        b'{"data": "\x01"}',
        b"\xff\xfe{",
        b'{"data": "\xff\xfe"}',
        b"\x00",
        b"<data/>",
        b'{"data": 1} trailing',
        b"[" * 100_000,
        b'{"data":' * 50_000,
        b"9" * 10_000,
        "{„data“: 1}".encode(),
    )
    for index, text in enumerate(texts):
        yield Malformed(f"JSON syntax {index}", text, JSON, 400)
    for value in (None, True, 3, 1.5, "", "plain words", "\ud800"):
        body = json.dumps(value).encode()
        yield Malformed(f"JSON {body.decode()}", body, JSON, 400)


def _bad_tensors() -> Iterator[Malformed]:
    square = [[0] * 8 for _ in range(8)]
    cases: tuple[tuple[str, Any, int], ...] = (
        ("empty", [], 422),
        ("empty row", [[]], 422),
        ("empty cells", [[[]]], 422),
        ("ragged rows", [[1, 2], [3]], 400),
        ("ragged cells", [[[1, 2, 3]], [[1, 2]]], 400),
        ("mixed depth", [[1, [2]], [3, 4]], 400),
        ("one-dimensional", [1, 2, 3], 400),
        ("four-dimensional", [[square]], 400),
        ("five-dimensional", [[[square]]], 400),
        ("two channels", [[[1, 2]] * 8] * 8, 400),
        ("four channels", [[[1, 2, 3, 4]] * 8] * 8, 400),
        ("strings in cells", [[["a"]]], 400),
        ("words in rows", [["red", "green"], ["blue", "white"]], 400),
        ("an object in a row", [[{"r": 1}]], 400),
        ("booleans and objects", [[True, {}]], 400),
        ("a late object", [[1, 2], [3, {}]], 400),
        ("null", [[None, 1]], 422),
        ("NaN", [[float("nan"), 1]], 422),
        ("infinity", [[float("inf")]], 422),
        ("minus infinity", [[0, float("-inf")]], 422),
        ("negative", [[-1, 0]], 422),
        ("above 255", [[0, 256]], 422),
        ("far above 255", [[1e300]], 422),
        ("beyond 64 bits", [[2**70]], 422),
        ("beyond floats", [[10**400]], 422),
    )
    for name, value, status in cases:
        yield Malformed(f"tensor {name}", json.dumps({"data": value}).encode(), JSON, status)
        if name != "four-dimensional":
            bare = json.dumps({"instances": [{"data": value}]}).encode()
            yield Malformed(f"instance {name}", bare, JSON, status)
    yield Malformed("tensor 1e999", b'{"data": [[1e999]]}', JSON, 422)
    deep = b'{"data": ' + b"[" * 200 + b"]" * 200 + b"}"
    yield Malformed("tensor of 200 dimensions", deep, JSON, 400)


def _bad_base64() -> Iterator[Malformed]:
    good = base64.b64encode(picture()).decode()
    texts = (
        ("not a picture", base64.b64encode(b"hello world").decode(), 400),
        ("foreign characters", "!!!!", 400),
        ("one character", "A", 400),
        ("cut short", good[: len(good) // 2 * 4 // 4], 400),
        ("inner padding", "QUJD=" + good, 400),
        ("unicode", "ÄÖÜ" * 10, 400),
        ("lone surrogate", "\ud800\udc00\ud800", 400),
        ("control characters", "iVBOR\u0000\u0001", 400),
        ("empty data url", "data:image/png;base64,", 400),
        ("data url of text", "data:text/plain;base64,aGVsbG8=", 400),
        ("a pdf", base64.b64encode(b"%PDF-1.7 and more").decode(), 415),
        ("a bomb", base64.b64encode(png_claiming(50000, 50000)).decode(), 413),
        ("too long", "A" * (15 << 20), 413),
    )
    for name, text, status in texts:
        body = json.dumps({"data": text}).encode()
        yield Malformed(f"base64 {name}", body, JSON, status)
        if name != "too long":
            nested = json.dumps({"instances": [{"b64": good}, {"b64": text}]}).encode()
            yield Malformed(f"second instance {name}", nested, JSON, status)
    for value in (None, 7, True, [], {}, ["x"], {"b64": "x"}):
        body = json.dumps({"b64": value}).encode()
        yield Malformed(f"b64 of {value!r}", body, JSON, 400)


def _bad_objects() -> Iterator[Malformed]:
    good = base64.b64encode(picture()).decode()
    values: tuple[tuple[str, Any, int], ...] = (
        ("nothing", {}, 400),
        ("only parameters", {"top_k": 1}, 400),
        ("unknown key", {"picture": good}, 400),
        ("unicode key", {"бильд": good}, 400),
        ("surrogate key", {"\udfff": good}, 400),
        ("long key", {"k" * 100_000: 1}, 400),
        ("known and unknown key", {"data": good, "colour": "red"}, 400),
        ("data null", {"data": None}, 400),
        ("data true", {"data": True}, 400),
        ("data number", {"data": 12}, 400),
        ("data object", {"data": {}}, 400),
        ("instances null", {"instances": None}, 400),
        ("instances empty", {"instances": []}, 400),
        ("instances object", {"instances": {"b64": good}}, 400),
        ("instances string", {"instances": good}, 400),
        ("instances of numbers", {"instances": [1, 2]}, 400),
        ("instances of null", {"instances": [None]}, 400),
        ("instances nested", {"instances": [{"instances": [good]}]}, 400),
        ("instances mixed", {"instances": [good, 5]}, 400),
        ("65 instances", {"instances": [{"b64": good}] * 65}, 413),
        ("65 strings", [good] * 65, 413),
        ("data within data", {"data": {"data": {"data": {"data": {"data": good}}}}}, 400),
        ("unknown parameter", {"data": good, "parameters": {"top": 1}}, 400),
    )
    for name, value, status in values:
        yield Malformed(f"object {name}", json.dumps(value).encode(), JSON, status)


def _bad_parameters() -> Iterator[Malformed]:
    good = base64.b64encode(picture()).decode()
    for value in (0, -1, 10**6, 10**30, 1.5, "many", "", "1.5", "0x1", None, True, [], [1], {}):
        body = json.dumps({"data": good, "top_k": value}).encode()
        yield Malformed(f"top_k of {value!r}", body, JSON, 400)
    nested = json.dumps({"data": good, "parameters": {"top_k": "five"}}).encode()
    yield Malformed("top_k among parameters", nested, JSON, 400)
