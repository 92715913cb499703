"""One TorchServe request to inputs and parameters, however they were sent.

TorchServe hands a handler one dict per request: the raw body under "body" (or
"data"), multipart parts and form fields and query parameters under their own
names. It decodes application/json and text/* itself unless
TS_DECODE_INPUT_REQUEST=false; both forms arrive here and mean the same.

Two limits are TorchServe's: of two multipart parts of one name it keeps the
last, and it drops the query string of /predictions. A parameter of a raw body
therefore travels as a header: top_k as `X-Top-K`.
"""

import base64
import binascii
import contextlib
import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from handlers.errors import RequestError
from handlers.streaming import Send

# Names under which an input may be sent, in JSON or in a form.
INPUT_NAMES = frozenset(
    {"body", "data", "image", "images", "text", "texts", "audio", "file", "input", "inputs"}
)
MAX_INPUTS = 64
STREAM = "stream"
_MAX_DEPTH = 4
_MAX_LISTED = 20  # options that an error message names

Default = TypeVar("Default", str, None)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Input:
    """One thing to predict on: bytes as sent or decoded from base64, or a JSON value.

    `content_type` is the lower-case media type its part declared, "" if none;
    `where` names it in error messages, like `instances[2]`.
    """

    value: Any
    content_type: str = ""
    where: str = "body"


@dataclass(frozen=True)
class Request:
    """What one client asked, and how it asked.

    Attributes:
        inputs: what to predict on, one or more.
        parameters: by name, as sent; read them through `integer`, `number`, `choice`, `flag`.
        many: the answer is a list, one entry per input.
        explain: an explanation is asked for beside the answer (`/explanations/NAME`).
        partial_sender: sends a partial answer to the client; None unless it asked for a stream.
    """

    inputs: list[Input]
    parameters: dict[str, Any] = field(default_factory=dict)
    many: bool = False
    explain: bool = False
    partial_sender: Send | None = None

    @property
    def streaming(self) -> bool:
        """Whether the client takes partial answers, through `send`."""
        return self.partial_sender is not None

    def send(self, partial: Any) -> None:
        """Send a JSON value to the client now, as a line of its own; only when `streaming`."""
        if self.partial_sender is None:
            raise RuntimeError("this request is not streaming")
        self.partial_sender(partial)

    def load_inputs(self, load: Callable[[Input], Loaded]) -> list[Loaded]:
        """`load` of each input; of several, a RequestError says which one it is about."""
        loaded = []
        for entry in self.inputs:
            try:
                loaded.append(load(entry))
            except RequestError as error:
                if not self.many or error.message.startswith(entry.where):
                    raise
                message = f"{entry.where}: {error.message}"
                raise RequestError(error.status, error.type, message) from error
        return loaded

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole-number parameter; RequestError 400 unless low <= value <= high."""
        value = self.parameters.get(name, default)
        if isinstance(value, str) and len(value) <= 20:
            with contextlib.suppress(ValueError):
                value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise RequestError(
                400, "bad_parameter", f"{name} must be a whole number from {low} to {high}"
            )
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A parameter that is a number; RequestError 400 unless low <= value <= high."""
        value = self.parameters.get(name, default)
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low <= value <= high
        ):
            raise RequestError(
                400, "bad_parameter", f"{name} must be a number from {low:g} to {high:g}"
            )
        return float(value)

    def choice(self, name: str, options: Collection[str], default: Default) -> str | Default:
        """A parameter that is one of `options`; RequestError 400 for any other value."""
        value = self.parameters.get(name, default)
        if value == default:
            return default
        if not isinstance(value, str) or value not in options:
            listed = ", ".join(list(options)[:_MAX_LISTED])
            raise RequestError(400, "bad_parameter", f"{name} must be one of {listed}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A parameter that is true or false (1 or 0 in a header); RequestError 400 otherwise."""
        value = self.parameters.get(name, default)
        if isinstance(value, str):
            value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if not isinstance(value, bool):
            raise RequestError(400, "bad_parameter", f"{name} must be true or false")
        return value


def read_request(
    row: Any,
    headers: Mapping[str, Any],
    parameters: Collection[str],
    max_bytes: int,
    sender: Send | None = None,
) -> Request:
    """Read one entry of the batch that TorchServe passes to `handle`.

    Args:
        row: the entry.
        headers: its request headers (and, per part, `{"content-type": ...}`).
        parameters: the names the handler takes. With "stream" among them, a client that sets it
            is sent partial answers.
        max_bytes: the limit of one input.
        sender: sends partial answers to the client; None where the server cannot.

    Raises:
        RequestError: 400 for malformed JSON or base64, an unknown name or nothing to predict on,
            413 over `max_bytes` in one input or over MAX_INPUTS inputs, 501 for a stream from a
            server that has none.
    """
    if not isinstance(row, Mapping):
        row = {"body": row}
    reader = _Reader(frozenset(parameters), max_bytes)
    reader.parameters.update(_header_parameters(headers, parameters))
    form = _is_form(headers)
    for name, value in row.items():
        declared = _media_type(headers, name)
        if name in parameters:
            reader.parameters[name] = _text(value)
        elif name in INPUT_NAMES or declared:
            reader.part(str(name), value, "text/plain" if form and not declared else declared)
        else:
            raise _unknown_name(name, parameters, headers)
    if not reader.inputs:
        raise RequestError(400, "empty_input", "the request holds nothing to predict on")
    request = Request(
        inputs=reader.inputs,
        parameters=reader.parameters,
        many=reader.many or len(reader.inputs) > 1,
        explain=headers.get("explain") == "True",
    )
    if STREAM not in parameters or not request.flag(STREAM, False):
        return request
    return dataclasses.replace(request, partial_sender=_stream_sender(request, sender))


def _stream_sender(request: Request, sender: Send | None) -> Send:
    """`sender`, if this request can be streamed; RequestError otherwise."""
    if sender is None:
        raise RequestError(
            501,
            "cannot_stream",
            "this server sends no partial answers on this route: leave stream out, or ask "
            "/predictions of TorchServe or of python -m deploy flask",
        )
    if sender is None:
        raise RequestError(
            501,
            "cannot_stream",
            "this server sends no partial answers on this route: leave stream out, or ask "
            "/predictions of TorchServe or of python -m deploy flask",
        )
    if request.many:
        raise RequestError(400, "bad_parameter", "stream takes one input a request")
    
    return sender


def decode_base64(text: str, max_bytes: int, where: str = "body") -> bytes:
    """Base64 (standard or URL-safe, line breaks and data: URLs allowed) to bytes.

    Raises RequestError 413 before decoding more than `max_bytes`, 400 if invalid.
    """
    if text[:5] == "data:":
        text = text.partition(",")[2]
    text = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        raise RequestError(413, "too_many_bytes", f"{where} is over the limit of {max_bytes} bytes")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(400, "bad_base64", f"{where} is not valid base64: {error}") from error


_URL_SAFE = str.maketrans("-_", "+/")


class _Reader:
    """Gathers the inputs and parameters of one request."""

    def __init__(self, names: frozenset[str], max_bytes: int) -> None:
        self.names = names
        self.max_bytes = max_bytes
        self.inputs: list[Input] = []
        self.parameters: dict[str, Any] = {}
        self.many = False

    def part(self, name: str, value: Any, content_type: str) -> None:
        """One body, multipart part or form field."""
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
            parsed = self._json(data, name, content_type)
            if parsed is None:
                self._add(_decoded_text(data, content_type), content_type, name)
            else:
                self.value(parsed[0], name, 0)
        elif isinstance(value, str) and content_type.startswith("text/"):
            self._add(value, content_type, name)
        else:
            self.value(value, name, 0)

    def _json(self, data: bytes, name: str, content_type: str) -> tuple[Any] | None:
        """JSON in a one-tuple, None if it is not JSON; 400 if it was declared as JSON."""
        declared = content_type == "application/json" or content_type.endswith("+json")
        if not declared and (content_type or data[:1] not in (b"{", b"[")):
            return None
        try:
            return (json.loads(data),)
        except (ValueError, RecursionError) as error:
            if declared:
                raise RequestError(400, "bad_json", f"{name} is not valid JSON: {error}") from error
            return None

    def value(self, value: Any, where: str, depth: int) -> None:
        """A decoded JSON value: an object, a list of inputs, or one input."""
        if depth > _MAX_DEPTH:
            raise RequestError(400, "bad_json", f"{where} is nested too deeply")
        if isinstance(value, dict):
            self._object(value, where, depth)
        elif isinstance(value, list) and any(isinstance(item, str | dict) for item in value):
            self._list(value, where, depth)
        else:
            self._add(value, "", where)

    def _object(self, value: dict[str, Any], where: str, depth: int) -> None:
        has_input = False
        for key, item in value.items():
            if key in self.names:
                self.parameters[key] = item
            elif key == "parameters" and isinstance(item, dict):
                self._parameters(item)
            elif key == "b64":
                has_input = True
                self._base64(item, f"{where}.b64")
            elif key == "instances":
                has_input = True
                self._instances(item, depth)
            elif key in INPUT_NAMES:
                has_input = True
                self.value(item, key if depth == 0 else f"{where}.{key}", depth + 1)
            else:
                raise _unknown_name(key, self.names, {})
        if not has_input:
            raise RequestError(
                400,
                "empty_input",
                f"{where} needs an input under data, b64 or instances",
            )

    def _instances(self, value: Any, depth: int) -> None:
        if not isinstance(value, list) or not value:
            raise RequestError(400, "bad_json", "instances must be a list of one input or more")
        if depth > 0:
            raise RequestError(400, "bad_json", "instances belong at the top of the JSON body")
        self._list(value, "instances", depth)

    def _list(self, items: list[Any], where: str, depth: int) -> None:
        self.many = True
        for index, item in enumerate(items):
            self.value(item, f"{where}[{index}]", depth + 1)

    def _parameters(self, value: dict[str, Any]) -> None:
        for key, item in value.items():
            if key not in self.names:
                raise _unknown_name(key, self.names, {})
            self.parameters[key] = item

    def _base64(self, value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise RequestError(400, "bad_base64", f"{where} must be a base64 string")
        self._add(decode_base64(value, self.max_bytes, where), "", where)

    def _add(self, value: Any, content_type: str, where: str) -> None:
        if isinstance(value, bytes) and len(value) > self.max_bytes:
            raise RequestError(
                413,
                "too_many_bytes",
                f"{where} is {len(value)} bytes, the limit is {self.max_bytes}",
            )
        if len(self.inputs) >= MAX_INPUTS:
            raise RequestError(
                413, "too_many_inputs", f"more than {MAX_INPUTS} inputs: send several requests"
            )
        self.inputs.append(Input(value, content_type, where))


def _media_type(headers: Mapping[str, Any], name: str) -> str:
    """The type one part declared; for a raw body, the request's own."""
    part = headers.get(name)
    declared = part.get("content-type") if isinstance(part, Mapping) else None
    if not declared and name in ("body", "data") and not _is_form(headers):
        declared = content_type(headers)
    return declared.partition(";")[0].strip().lower() if isinstance(declared, str) else ""


def _is_form(headers: Mapping[str, Any]) -> bool:
    kind = content_type(headers).lower()
    return kind.startswith(("multipart/", "application/x-www-form-urlencoded"))


def _header_parameters(headers: Mapping[str, Any], parameters: Collection[str]) -> dict[str, Any]:
    names = {f"x-{name.replace('_', '-')}": name for name in parameters}
    return {
        names[key.lower()]: value
        for key, value in headers.items()
        if key.lower() in names and isinstance(value, str)
    }


def _decoded_text(data: bytes, content_type: str) -> bytes | str:
    """UTF-8 text as a string, as TorchServe decodes it; anything else as the bytes it is."""
    if not content_type.startswith("text/"):
        return data
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data


def content_type(headers: Mapping[str, Any]) -> str:
    """The request's Content-Type header, however its name is written; "" if none."""
    for key in ("content-type", "Content-Type", "CONTENT-TYPE"):
        if isinstance(headers.get(key), str):
            return str(headers[key])
    return ""


def _text(value: Any) -> Any:
    return (
        bytes(value).decode("utf-8", "replace") if isinstance(value, bytes | bytearray) else value
    )


def _unknown_name(
    name: Any, parameters: Collection[str], headers: Mapping[str, Any]
) -> RequestError:
    if "x-www-form-urlencoded" in content_type(headers).lower():
        return RequestError(
            415,
            "unsupported_type",
            "the body was sent as a web form (curl's default): use curl -T FILE, or add "
            "-H 'Content-Type: application/octet-stream'",
        )
    known = ", ".join(sorted(parameters)) or "none"
    return RequestError(
        400, "unknown_name", f"{str(name)[:60]!r} is neither an input nor a parameter ({known})"
    )
