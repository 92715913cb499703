"""Tensors in JSON: by name, as rows, and as KServe's v2 protocol with its binary extension.

https://github.com/kserve/open-inference-protocol: "Inference Request JSON Object" and "Binary
Tensor Data Extension".
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from handlers.errors import RequestError
from handlers.tensor_files import plain, tensor_of
from handlers.tensor_spec import DTYPES, NAMES, TensorSpec

LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_RANK, _MAX_SIZE = 8, 2**31 - 1


def nested(value: Any, name: str) -> torch.Tensor:
    """Nested lists of numbers or booleans, or one of these, as a tensor of int64, float64 or bool.

    Raises RequestError: 400 for lists that are ragged or hold something else, 422 for numbers
    beyond INT64.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(400, "bad_array", f"{name}: its lists differ in length") from None
    if array.dtype.kind == "O" and array.size and all(type(v) is int for v in array.flat):
        raise RequestError(422, "bad_value", f"{name} has numbers above INT64's")
    if array.dtype.kind not in "biuf":
        raise RequestError(400, "bad_array", f"{name} must be nested lists of numbers")
    return tensor_of(array, name)


def rows(instances: Any, specs: Sequence[TensorSpec]) -> dict[str, torch.Tensor]:
    """Rows, each an object of values by name, or the value alone of a single input."""
    if not isinstance(instances, list) or not instances:
        raise RequestError(400, "bad_json", "instances must be a list of one row or more")
    if len(specs) == 1 and not any(isinstance(row, dict) for row in instances):
        return {specs[0].name: nested(instances, specs[0].name)}
    names = {name for row in instances for name in (row if isinstance(row, dict) else ())}
    for number, row in enumerate(instances):
        if not isinstance(row, dict) or set(row) != names:
            raise RequestError(
                400,
                "bad_json",
                f"instances[{number}] must be an object of the same inputs as the others",
            )
    return {name: nested([row[name] for row in instances], name) for name in instances[0]}


def kserve(body: Mapping[str, Any], raw: memoryview) -> dict[str, torch.Tensor]:
    """The input tensors of a v2 request, binary data cut from `raw` in their order.

    Raises RequestError 400 for a malformed one, 422 for a shape that no model takes.
    """
    found: dict[str, torch.Tensor] = {}
    at = 0
    for entry in body["inputs"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise RequestError(400, "bad_json", "every input must be an object with a name")
        name, kind = entry["name"], entry.get("datatype")
        if not isinstance(kind, str) or kind not in DTYPES:
            listed = ", ".join(DTYPES)
            raise RequestError(400, "bad_json", f"{name[:60]!r}: datatype is one of {listed}")
        if name in found:
            raise RequestError(400, "bad_json", f"{name[:60]!r} is there twice")
        shape = _shape(name, entry.get("shape"))
        parameters = entry.get("parameters")
        size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
        if size is None:
            found[name] = _from_json(entry, name, DTYPES[kind], shape)
        else:
            wanted = math.prod(shape) * DTYPES[kind].itemsize
            if type(size) is not int or size != wanted or at + wanted > len(raw):
                raise RequestError(
                    400,
                    "bad_array",
                    f"{name[:60]!r}: {kind} {shape} is {wanted} bytes of binary "
                    f"data; {str(size)[:20]} are announced and {len(raw) - at} are left",
                )
            found[name] = _from_bytes(raw[at : at + size], DTYPES[kind], shape)
            at += size
    if at != len(raw):
        raise RequestError(400, "bad_array", f"{len(raw) - at} bytes of binary data are no input's")
    return found


def _shape(name: str, shape: Any) -> list[int]:
    if not isinstance(shape, list) or not shape or not all(type(s) is int for s in shape):
        raise RequestError(400, "bad_json", f"{name[:60]!r}: shape must be a list of sizes")
    if len(shape) > _MAX_RANK or min(shape) < 1 or max(shape) > _MAX_SIZE:
        raise RequestError(
            422, "bad_shape", f"{name[:60]!r}: a shape has 1 to {_MAX_RANK} sizes from 1 up"
        )
    return shape


def _from_json(
    entry: Mapping[str, Any], name: str, dtype: torch.dtype, shape: list[int]
) -> torch.Tensor:
    if not isinstance(entry.get("data"), list):
        raise RequestError(400, "bad_json", f"{name[:60]!r} has neither data nor binary data")
    tensor = nested(entry["data"], name[:60])
    if tensor.numel() != math.prod(shape):
        raise RequestError(
            400,
            "bad_array",
            f"{name[:60]!r}: shape {shape} takes {math.prod(shape)} values, not {tensor.numel()}",
        )
    spec = TensorSpec(name[:60], dtype, tuple(shape), (), 0, 1)
    return spec.checked(tensor.reshape(shape))


def _from_bytes(raw: memoryview, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def columns(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Nested lists by name. Raises RequestError 500 where JSON has no such number."""
    _refuse_odd(tensors)
    return {name: tensor.tolist() for name, tensor in tensors.items()}


def kserve_answer(
    about: dict[str, Any], tensors: Mapping[str, torch.Tensor], binary: Mapping[str, bool]
) -> tuple[bytes, dict[str, str]]:
    """A v2 response: its bytes, and headers beside the content type.

    Args:
        about: `model_name` and so on.
        tensors: the outputs.
        binary: whether an output's data follow the JSON as bytes.
    """
    _refuse_odd({name: tensor for name, tensor in tensors.items() if not binary[name]})
    entries, blobs = [], []
    for name, tensor in tensors.items():
        entry: dict[str, Any] = {
            "name": name,
            "datatype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
        }
        if binary[name]:
            half = tensor.dtype == torch.bfloat16
            data = tensor.contiguous()
            blobs.append((data.view(torch.int16).numpy() if half else plain(data)).tobytes())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.flatten().tolist()
        entries.append(entry)
    head = json.dumps({**about, "outputs": entries}, allow_nan=False).encode("ascii")
    headers = {LENGTH_HEADER: str(len(head))} if blobs else {}
    return head + b"".join(blobs), headers


def _refuse_odd(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise RequestError(
                500,
                "not_finite",
                f"the model answers NaN or infinity in {name}, which JSON "
                "cannot say: ask for it with Accept: application/x-npz",
            )
