"""Tensors on the wire of the Open Inference Protocol: in JSON, and as raw bytes after it.

Binary data are little-endian and row by row; BYTES elements carry a 4-byte length each. See
the protocol's "Binary Tensor Data Extension".
"""

import math
import struct
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.service.failure import bad_request, unprocessable
from deploy.service.tensors import Tensor
from handlers.payload import MAX_INPUTS

_TYPES: dict[str, str] = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
KINDS = (*_TYPES, "BF16", "BYTES")
MAX_RANK = 8
_MAX_SIZE = 2**31 - 1


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON part and the binary part. Raises Failure 400."""
    if header_length is None:
        return body, memoryview(b"")
    digits = header_length.lstrip("0") or header_length
    # Python refuses to read thousands of digits.
    if not digits.isdecimal() or len(digits) > 20 or int(digits) > len(body):
        raise bad_request("Inference-Header-Content-Length must be a length within the body")
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


def rows(entry: dict[str, Any], raw: memoryview | None) -> list[Any]:
    """One input tensor as a list along its first dimension: nested lists, str or bytes.

    `raw` is its binary data, None for data in JSON. Raises Failure: 400, and 422 for a shape that
    no model takes, before anything of that size is made.
    """
    name, kind = entry["name"], entry.get("datatype")
    if kind not in KINDS:
        raise bad_request(f"input {name!r}: datatype must be one of {', '.join(KINDS)}")
    shape = _shape(name, entry.get("shape"))
    count = math.prod(shape)
    flat: Any
    if raw is None:
        flat = _from_json(name, kind, entry.get("data"))
    else:
        flat = _bytes_elements(name, raw) if kind == "BYTES" else _numbers(name, kind, raw, count)
    if len(flat) != count:
        raise bad_request(f"input {name!r}: shape {shape} takes {count} elements, not {len(flat)}")
    if kind == "BYTES":
        inner = count // shape[0]
        return flat if inner == 1 else [flat[i : i + inner] for i in range(0, count, inner)]
    values: list[Any] = (
        np.asarray(flat, dtype=object if raw is None else None).reshape(shape).tolist()
    )
    return values


def encode(tensor: Tensor) -> bytes:
    """A tensor's binary data."""
    if tensor.kind == "BYTES":
        texts = [str(text).encode("utf-8") for text in tensor.data]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    return np.asarray(tensor.data, dtype=_TYPES[tensor.kind]).tobytes()


def _shape(name: str, shape: Any) -> list[int]:
    """The declared shape, of sizes that a request can have. Raises Failure 400 or 422."""
    if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
        raise bad_request(f"input {name!r}: shape must be a list of one size or more")
    if len(shape) > MAX_RANK or min(shape) < 1 or max(shape) > _MAX_SIZE:
        raise unprocessable(
            f"input {name[:40]!r}: a shape has 1 to {MAX_RANK} sizes, each from 1 to {_MAX_SIZE}"
        )
    if shape[0] > MAX_INPUTS:
        raise unprocessable(
            f"input {name[:40]!r}: {str(shape[0])[:20]} inputs in one request, the limit is "
            f"{MAX_INPUTS}: send several requests"
        )
    return shape


def _is_size(size: Any) -> bool:
    return type(size) is int and size >= 0


def _from_json(name: str, kind: str, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise bad_request(f"input {name!r} has neither data nor binary_data_size")
    flat: list[Any] = data
    while (types := set(map(type, flat))) == {list}:
        flat = list(chain.from_iterable(flat))
    taken: set[type] = {int, float} if "F" in kind else {int}
    if kind in ("BYTES", "BOOL"):
        taken = {str} if kind == "BYTES" else {bool}
    if not types <= taken:
        raise bad_request(f"input {name!r}: its data must be {kind} throughout, in even lists")
    return flat


def _numbers(name: str, kind: str, raw: memoryview, count: int) -> npt.NDArray[Any]:
    item = 2 if kind == "BF16" else np.dtype(_TYPES[kind]).itemsize
    if len(raw) != count * item:
        raise bad_request(
            f"input {name!r}: its shape and datatype take {count * item} bytes, not {len(raw)}"
        )
    if kind == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, _TYPES[kind])


def _bytes_elements(name: str, raw: memoryview) -> list[bytes]:
    elements, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise bad_request(f"input {name!r}: its binary data end within a length")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise bad_request(f"input {name!r}: its binary data end within an element")
        elements.append(bytes(raw[at : at + length]))
        at += length
    return elements
