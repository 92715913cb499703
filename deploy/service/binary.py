"""Tensors on the wire of the Open Inference Protocol: in JSON, and as raw bytes after it.

Binary data are little-endian and row by row; BYTES elements carry a 4-byte length each. See
the protocol's "Binary Tensor Data Extension".
"""

import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.service.failure import bad_request
from deploy.service.tensors import Tensor, shape_of

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


def split(body: bytes, header_length: str | None) -> tuple[bytes, memoryview]:
    """The JSON part and the binary part. Raises Failure 400."""
    if header_length is None:
        return body, memoryview(b"")
    if not header_length.isdecimal() or int(header_length) > len(body):
        raise bad_request("Inference-Header-Content-Length must be a length within the body")
    return body[: int(header_length)], memoryview(body)[int(header_length) :]


def rows(entry: dict[str, Any], raw: memoryview | None) -> list[Any]:
    """One input tensor as a list along its first dimension: nested lists, str or bytes.

    `raw` is its binary data, None for data in JSON. Raises Failure 400.
    """
    name, kind, shape = entry["name"], entry.get("datatype"), entry.get("shape")
    if kind not in KINDS:
        raise bad_request(f"input {name!r}: datatype must be one of {', '.join(KINDS)}")
    if not _is_shape(shape):
        raise bad_request(f"input {name!r}: shape must be a list of one size or more")
    assert isinstance(shape, list)
    count = math.prod(shape)
    flat: Any
    if raw is None:
        flat = _from_json(name, kind, entry.get("data"))
    else:
        flat = _bytes_elements(name, raw) if kind == "BYTES" else _numbers(name, kind, raw, count)
    if len(flat) != count:
        raise bad_request(f"input {name!r}: shape {shape} takes {count} elements, not {len(flat)}")
    if kind == "BYTES":
        inner = count // shape[0] if shape[0] else 0
        return flat if inner == 1 else [flat[i : i + inner] for i in range(0, count, inner or 1)]
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


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and 1 <= len(shape) <= 8
        and all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in shape)
    )


def _from_json(name: str, kind: str, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise bad_request(f"input {name!r} has neither data nor binary_data_size")
    _, flat = shape_of(data)
    types: Any = {"BYTES": str, "BOOL": bool}.get(kind, int | float if "F" in kind else int)
    for value in flat:
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "BOOL"):
            raise bad_request(f"input {name!r}: its data must be {kind} throughout")
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
