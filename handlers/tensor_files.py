"""Tensors in `.npy`, `.npz` and safetensors files, read from bytes that nobody vouches for.

Nothing is unpickled: arrays of objects are refused. What an `.npz` unpacks to is bounded before
and while it is unpacked.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handlers.errors import RequestError
from handlers.payload import MAX_INPUTS

NPY, NPZ = b"\x93NUMPY", b"PK\x03\x04"
_HEADER = 4096  # bytes of an .npy header; a plain array's has 128
_ENTRY = b"PK\x01\x02"  # the signature of a zip's directory entry


def is_safetensors(data: bytes) -> bool:
    """Whether bytes look like a safetensors file: a length, and JSON of that length."""
    if len(data) < 10 or data[8:9] != b"{":
        return False
    (length,) = struct.unpack_from("<Q", data)
    return bool(2 <= length <= len(data) - 8)


def from_npy(data: bytes, where: str = "body") -> torch.Tensor:
    """The array of an .npy file; RequestError 400 where it is none, or one of objects."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        read: Any = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=_HEADER)
        start = stream.tell()
        count = 1
        for size in shape:  # whole numbers of Python: no overflow
            count *= size
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise ValueError(f"it holds {dtype}, not numbers")
        if count * dtype.itemsize != len(data) - start:
            raise ValueError(f"its header promises {count} values, and the file ends elsewhere")
        flat = np.frombuffer(data, dtype, count, start)
    except (ValueError, TypeError, EOFError, SyntaxError, struct.error, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(400, "bad_array", f"{where} is no .npy array: {reason}") from error
    return tensor_of(flat.reshape(shape, order="F" if fortran else "C"), where)


def tensor_of(array: npt.NDArray[Any], where: str) -> torch.Tensor:
    """A tensor of an array of numbers, in this machine's byte order."""
    kind = array.dtype.newbyteorder("=")
    if kind in (np.uint16, np.uint32):
        kind = np.dtype(np.int64)
    if kind == np.uint64:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise RequestError(422, "bad_value", f"{where} has numbers above INT64's")
        kind = np.dtype(np.int64)
    # A copy: the request's bytes are not writable, and no tensor may say that they are.
    return torch.from_numpy(np.array(array, dtype=kind, order="C"))


def from_npz(data: bytes, max_bytes: int) -> dict[str, torch.Tensor]:
    """The arrays of an .npz file by name.

    Raises RequestError: 400 where it is none, 413 for more than `max_bytes` when unpacked.
    """
    if data.count(_ENTRY) > MAX_INPUTS:  # before Python makes an object of each
        raise RequestError(400, "bad_array", f"an .npz of more than {MAX_INPUTS} arrays")
    found: dict[str, torch.Tensor] = {}
    left = max_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if entry.file_size > left:
                    raise _too_many(max_bytes)
                with archive.open(entry) as opened:
                    content = opened.read(left + 1)  # a directory may lie about sizes
                left -= len(content)
                if left < 0:
                    raise _too_many(max_bytes)
                found[name] = from_npy(content, name[:60])
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        zlib.error,
        OSError,
        ValueError,
        struct.error,
    ) as error:
        raise RequestError(400, "bad_array", f"the body is no .npz file: {error}") from error
    return found


def _too_many(max_bytes: int) -> RequestError:
    return RequestError(
        413, "too_many_bytes", f"the arrays unpack to more than the limit of {max_bytes} bytes"
    )


def from_safetensors(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name; RequestError 400 where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise RequestError(400, "bad_array", f"the body is no safetensors file: {error}") from error


def plain(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """An array of a tensor; bfloat16, which NumPy lacks, as float32."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: npt.NDArray[Any] = tensor.contiguous().numpy()
    return array


def to_npy(tensor: torch.Tensor) -> bytes:
    """An .npy file."""
    stream = io.BytesIO()
    np.save(stream, plain(tensor), allow_pickle=False)
    return stream.getvalue()


def to_npz(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """An .npz file, stored without compression."""
    stream = io.BytesIO()
    arrays: dict[str, Any] = {name: plain(tensor) for name, tensor in tensors.items()}
    np.savez(stream, **arrays)
    return stream.getvalue()


def to_safetensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """A safetensors file."""
    from safetensors.torch import save

    return save({name: tensor.contiguous().clone() for name, tensor in tensors.items()})
