"""How a request writes its tensors, and the same for its answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from handlers import json_body, tensor_files, tensor_json
from handlers.batch import Encoded
from handlers.errors import RequestError
from handlers.payload import content_type
from handlers.tensor_json import LENGTH_HEADER
from handlers.tensor_spec import TensorSpec

Format = Literal["columns", "inputs", "instances", "kserve", "npy", "npz", "safetensors"]

JSON, OCTETS = "application/json", "application/octet-stream"
TYPES: dict[str, str] = {
    "npy": "application/x-npy",
    "npz": "application/x-npz",
    "safetensors": "application/x-safetensors",
}
_KNOWN: dict[str, Format] = {
    "application/x-npy": "npy",
    "application/npy": "npy",
    "application/x-npz": "npz",
    "application/npz": "npz",
    "application/x-safetensors": "safetensors",
    "application/safetensors": "safetensors",
    "application/vnd.safetensors": "safetensors",
}
# Types that say nothing of what the body holds.
_VAGUE = frozenset({"", OCTETS, "binary/octet-stream", "application/zip"})
_TAKEN = (
    "send nested lists or KServe v2 as application/json, or an .npy, .npz or safetensors file as "
    "application/octet-stream"
)


@dataclass(frozen=True)
class Call:
    """Rows for the model: its inputs in order."""

    tensors: tuple[torch.Tensor, ...]

    @property
    def rows(self) -> int:
        return len(self.tensors[0])


@dataclass(frozen=True)
class Asked:
    """What a request brought, and how it wants the answer.

    Attributes:
        tensors: by name.
        form: how they were written.
        accepted: how the answer is to be written, if the client says so.
        body: of a KServe request: `id`, `outputs`, `parameters`.
    """

    tensors: dict[str, torch.Tensor]
    form: Format
    accepted: Format | None = None
    body: Mapping[str, Any] = field(default_factory=dict)


def read(
    row: Any,
    headers: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    max_bytes: int,
    max_weight: int,
) -> Asked:
    """The tensors of one entry of TorchServe's batch.

    Raises RequestError: 400 for what is malformed, 413 over `max_bytes` (before anything is
    decoded; of an .npz also what it unpacks to) and over `max_weight` JSON values, 415 for other
    types, 422 for shapes and numbers that no model takes.
    """
    accepted = _accepted(headers)
    row = row if isinstance(row, Mapping) else {"body": row}
    names = {spec.name for spec in specs}
    if row and row.keys() <= names and not row.keys() & {"body", "data"}:
        tensors = {name: _part(value, name, max_bytes, max_weight) for name, value in row.items()}
        return Asked(tensors, "columns", accepted)
    body = next((row[key] for key in ("body", "data") if key in row), None)
    if body is None or body in (b"", ""):
        named = next((str(name) for name in row if name not in ("body", "data")), "")
        if named:
            raise RequestError(
                400, "unknown_name", f"{named[:60]!r} is no input: {', '.join(sorted(names))}"
            )
        raise RequestError(400, "empty_input", "the request holds nothing to predict on")
    if isinstance(body, str):
        body = body.encode("utf-8")
    if not isinstance(body, bytes | bytearray | memoryview):
        return _of_json(body, specs, memoryview(b""), accepted)
    return _of_bytes(bytes(body), headers, specs, max_bytes, max_weight, accepted)


def _of_bytes(
    body: bytes,
    headers: Mapping[str, Any],
    specs: Sequence[TensorSpec],
    max_bytes: int,
    max_weight: int,
    accepted: Format | None,
) -> Asked:
    if len(body) > max_bytes:
        raise RequestError(
            413, "too_many_bytes", f"the body is over the limit of {max_bytes} bytes"
        )
    length = _header(headers, LENGTH_HEADER)
    kind = content_type(headers).partition(";")[0].strip().lower()
    if length is not None:
        digits = length.strip()
        if not digits.isdecimal() or len(digits) > 20 or int(digits) > len(body):
            raise RequestError(400, "bad_json", f"{LENGTH_HEADER} must be a length within the body")
        head, raw = body[: int(digits)], memoryview(body)[int(digits) :]
        return _of_json(_parsed(head, max_weight), specs, raw, accepted)
    if kind == JSON or kind.endswith("+json"):
        return _of_json(_parsed(body, max_weight), specs, memoryview(b""), accepted)
    form = _KNOWN.get(kind) or _recognised(body)
    if form is None and kind in _VAGUE | {"text/plain"} and body[:1] in (b"{", b"["):
        return _of_json(_parsed(body, max_weight), specs, memoryview(b""), accepted)
    if form is None:
        if kind in _VAGUE:
            raise RequestError(400, "bad_array", f"the body is none of these: {_TAKEN}")
        raise RequestError(415, "unsupported_type", f"{kind[:60]} is not accepted: {_TAKEN}")
    if form == "npz":
        return Asked(tensor_files.from_npz(body, max_bytes), form, accepted)
    if form == "safetensors":
        return Asked(tensor_files.from_safetensors(body), form, accepted)
    if len(specs) > 1:
        raise RequestError(
            400,
            "bad_array",
            f"an .npy file holds one array, and the model takes {len(specs)}: "
            "send an .npz or safetensors file",
        )
    return Asked({specs[0].name: tensor_files.from_npy(body)}, "npy", accepted)


def _recognised(body: bytes) -> Format | None:
    """The format that a file's first bytes show."""
    if body.startswith(tensor_files.NPY):
        return "npy"
    if body.startswith(tensor_files.NPZ):
        return "npz"
    return "safetensors" if tensor_files.is_safetensors(body) else None


def _part(value: Any, name: str, max_bytes: int, max_weight: int) -> torch.Tensor:
    """One part of a form: an .npy file, or nested lists in JSON."""
    if isinstance(value, str):
        value = value.encode("utf-8")
    if not isinstance(value, bytes | bytearray):
        return tensor_json.nested(value, name)
    if len(value) > max_bytes:
        raise RequestError(413, "too_many_bytes", f"{name} is over the limit of {max_bytes} bytes")
    if value.startswith(tensor_files.NPY):
        return tensor_files.from_npy(bytes(value), name)
    return tensor_json.nested(_parsed(bytes(value), max_weight), name)


def _parsed(data: bytes, max_weight: int) -> Any:
    try:
        return json_body.parse(data, max_weight=max_weight)
    except ValueError as error:
        raise RequestError(400, "bad_json", f"body is not valid JSON: {error}") from error


def _of_json(
    body: Any, specs: Sequence[TensorSpec], raw: memoryview, accepted: Format | None
) -> Asked:
    names = {spec.name for spec in specs}
    if isinstance(body, dict) and not (body and body.keys() <= names):
        inputs = body.get("inputs")
        if isinstance(inputs, list) and any(isinstance(entry, dict) for entry in inputs):
            return Asked(tensor_json.kserve(body, raw), "kserve", accepted, body)
        if "instances" in body and not body.keys() - {"instances", "parameters"}:
            return Asked(tensor_json.rows(body["instances"], specs), "instances", accepted)
        if "inputs" in body and not body.keys() - {"inputs", "parameters"}:
            return Asked(_columns(inputs, specs), "inputs", accepted)
    if raw:
        raise RequestError(400, "bad_json", "binary data belong to KServe's v2 form")
    return Asked(_columns(body, specs), "columns", accepted)


def _columns(value: Any, specs: Sequence[TensorSpec]) -> dict[str, torch.Tensor]:
    """Nested lists by name, or alone for a single input."""
    if isinstance(value, dict) and value:
        return {str(name): tensor_json.nested(item, str(name)[:60]) for name, item in value.items()}
    if isinstance(value, list) and len(specs) == 1:
        return {specs[0].name: tensor_json.nested(value, specs[0].name)}
    named = ", ".join(f'"{spec.name}": [...]' for spec in specs[:4])
    raise RequestError(400, "bad_json", f"send an object of nested lists: {{{named}}}")


def _header(headers: Mapping[str, Any], name: str) -> str | None:
    for key, value in headers.items():
        if key.lower() == name.lower() and isinstance(value, str):
            return value
    return None


def _accepted(headers: Mapping[str, Any]) -> Format | None:
    """The format that an Accept header asks for; None where that of the request will do."""
    given = [
        part.partition(";")[0].strip().lower()
        for part in (_header(headers, "accept") or "").split(",")
    ]
    for kind in given:
        if kind in _KNOWN:
            return _KNOWN[kind]
        if kind == JSON:
            return "columns"
        if kind in ("", "*/*", "application/*", OCTETS):
            return None
    raise RequestError(
        406,
        "not_acceptable",
        f"answers are {JSON}, {', '.join(TYPES.values())}, not {', '.join(given)[:120]}",
    )


def check_outputs(asked: Asked, outputs: Sequence[str]) -> None:
    """Refuse, before anything is computed, an answer that cannot be given. Raises RequestError."""
    if asked.accepted == "npy" and len(outputs) > 1:
        raise RequestError(
            406,
            "not_acceptable",
            f"an .npy file holds one array, and the model answers "
            f"{len(outputs)}: ask for {TYPES['npz']}",
        )
    for entry in _requested(asked):
        if not isinstance(entry, dict) or entry.get("name") not in outputs:
            name = entry.get("name") if isinstance(entry, dict) else entry
            raise RequestError(
                400, "unknown_name", f"{str(name)[:60]!r} is no output: {', '.join(outputs)}"
            )


def _requested(asked: Asked) -> list[Any]:
    entries = asked.body.get("outputs") or []
    if not isinstance(entries, list):
        raise RequestError(400, "bad_json", "outputs must be a list of objects")
    return entries


def answer(asked: Asked, outputs: Mapping[str, torch.Tensor], model: str) -> Encoded:
    """A request's answer. Raises RequestError 500 where its format cannot say it."""
    form = asked.form
    if asked.accepted is not None and (form in TYPES or asked.accepted != "columns"):
        form = asked.accepted
    if form == "npy" and len(outputs) > 1:
        form = "npz"
    if form == "npy":
        return Encoded(tensor_files.to_npy(next(iter(outputs.values()))), TYPES[form])
    if form == "npz":
        return Encoded(tensor_files.to_npz(outputs), TYPES[form])
    if form == "safetensors":
        return Encoded(tensor_files.to_safetensors(outputs), TYPES[form])
    if form == "kserve":
        return _kserve(asked, outputs, model)
    columns = tensor_json.columns(outputs)
    value: Any = columns
    if form == "inputs":
        value = {"outputs": columns}
    elif form == "instances":
        rows = zip(*columns.values(), strict=True)
        value = [dict(zip(columns, row, strict=True)) for row in rows]
    return Encoded(json.dumps(value, allow_nan=False).encode("ascii"))


def _kserve(asked: Asked, outputs: Mapping[str, torch.Tensor], model: str) -> Encoded:
    """The outputs that were asked for, each in JSON or binary as asked."""
    requested = {entry["name"]: entry.get("parameters") for entry in _requested(asked)}
    parameters = asked.body.get("parameters")
    every = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    chosen = {name: t for name, t in outputs.items() if not requested or name in requested}
    binary = {}
    for name in chosen:
        own = requested.get(name)
        wanted = own.get("binary_data", every) if isinstance(own, dict) else every
        binary[name] = wanted is True
    about: dict[str, Any] = {"model_name": model}
    if isinstance(asked.body.get("id"), str):
        about["id"] = asked.body["id"]
    body, headers = tensor_json.kserve_answer(about, chosen, binary)
    return Encoded(body, OCTETS if headers else JSON, headers)
