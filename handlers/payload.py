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
import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from handlers import json_body
from handlers.errors import RequestError
from handlers.request import Input, Request
from handlers.streaming import Send

__all__ = ["MAX_INPUTS", "Input", "Request", "decode_base64", "read_request", "refuse_url"]

# Names under which an input may be sent, in JSON or in a form.
INPUT_NAMES = frozenset(
    {"body", "data", "image", "images", "text", "texts", "audio", "file", "input", "inputs"}
)
MAX_INPUTS = 64
STREAM = "stream"
_MAX_DEPTH = 4
# Base64 adds a third, its line breaks and a data: URL's head a little.
_BASE64_GROWTH = 1.5
_SCHEMES = ("http://", "https://", "ftp://", "file://", "s3://", "gs://")


def read_request(
    row: Any,
    headers: Mapping[str, Any],
    parameters: Collection[str],
    max_bytes: int,
    sender: Send | None = None,
    max_weight: int = json_body.MAX_WEIGHT,
) -> Request:
    """Read one entry of the batch that TorchServe passes to `handle`.

    Args:
        row: the entry.
        headers: its request headers (and, per part, `{"content-type": ...}`).
        parameters: the names the handler takes. With "stream" among them, a client that sets it
            is sent partial answers.
        max_bytes: the limit of one input, as sent, before anything is decoded.
        sender: sends partial answers to the client; None where the server cannot.
        max_weight: the limit of a JSON body, see `json_body.parse`.

    Raises:
        RequestError: 400 for malformed JSON or base64, an unknown name or nothing to predict on,
            413 over `max_bytes` in one input, over `max_weight` or over MAX_INPUTS inputs, 415
            for a web form that is none, 501 for a stream from a server that has none.
    """
    if not isinstance(row, Mapping):
        row = {"body": row}
    reader = _Reader(frozenset(parameters), max_bytes, max_weight)
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
        if _is_web_form(headers):
            raise _web_form()
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
    if request.many:
        raise RequestError(400, "bad_parameter", "stream takes one input a request")
    return sender


def decode_base64(text: str, max_bytes: int, where: str = "body") -> bytes:
    """Base64 (standard or URL-safe, line breaks and data: URLs allowed) to bytes.

    Raises RequestError 413 before decoding more than `max_bytes`, 400 if invalid or a URL.
    """
    refuse_url(text, where)
    if text[:5] == "data:":
        text = text.partition(",")[2]
    try:
        plain = text.encode("ascii").translate(_URL_SAFE, b" \t\n\r\v\f").rstrip(b"=")
        if len(plain) * 3 // 4 > max_bytes:
            raise _too_many_bytes(where, max_bytes)
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        why = "other characters" if isinstance(error, UnicodeError) else error
        raise RequestError(400, "bad_base64", f"{where} is not valid base64: {why}") from error


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def refuse_url(value: str | bytes, where: str) -> None:
    """RequestError 400 where a URL stands in place of a file."""
    head = value[:64].lstrip().lower()
    text = head if isinstance(head, str) else head.decode("latin-1")
    if text.startswith(_SCHEMES):
        raise RequestError(
            400,
            "url_not_fetched",
            f"{where} is a URL, and URLs are not fetched: send the file itself, or its base64",
        )


def _too_many_bytes(where: str, max_bytes: int) -> RequestError:
    return RequestError(413, "too_many_bytes", f"{where} is over the limit of {max_bytes} bytes")


class _Reader:
    """Gathers the inputs and parameters of one request."""

    def __init__(self, names: frozenset[str], max_bytes: int, max_weight: int) -> None:
        self.names = names
        self.max_bytes = max_bytes
        self.max_weight = max_weight
        self.inputs: list[Input] = []
        self.parameters: dict[str, Any] = {}
        self.many = False

    def part(self, name: str, value: Any, content_type: str) -> None:
        """One body, multipart part or form field."""
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
            parsed = self._json(data, name, content_type)
            if parsed is None:
                self._check_bytes(len(data), content_type, name)
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
            return (json_body.parse(data, name, self.max_weight),)
        except ValueError as error:
            if declared:
                raise RequestError(400, "bad_json", f"{name} is not valid JSON: {error}") from error
        except RequestError:
            if declared:
                raise
        return None

    def value(self, value: Any, where: str, depth: int) -> None:
        """A decoded JSON value: an object, a list of inputs, or one input."""
        if depth > _MAX_DEPTH:
            raise RequestError(400, "bad_json", f"{where} is nested too deeply")
        if isinstance(value, dict):
            self._object(value, where, depth)
        elif isinstance(value, list) and not {str, dict}.isdisjoint(map(type, value)):
            self._list(value, where, depth)
        else:
            self._add(value, "", where)

    def _object(self, value: dict[str, Any], where: str, depth: int) -> None:
        has_input = False
        for key, item in value.items():
            if key in self.names:
                self.parameters[key] = item
            elif key == "parameters":
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
        if len(items) > MAX_INPUTS:
            raise _too_many_inputs()
        for index, item in enumerate(items):
            self.value(item, f"{where}[{index}]", depth + 1)

    def _parameters(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise RequestError(400, "bad_json", "parameters must be an object")
        for key, item in value.items():
            if key not in self.names:
                raise _unknown_name(key, self.names, {})
            self.parameters[key] = item

    def _base64(self, value: Any, where: str) -> None:
        if not isinstance(value, str):
            raise RequestError(400, "bad_base64", f"{where} must be a base64 string")
        self._add(decode_base64(value, self.max_bytes, where), "", where)

    def _check_bytes(self, length: int, content_type: str, where: str) -> None:
        growth = _BASE64_GROWTH if content_type.startswith("text/") else 1
        if length > growth * self.max_bytes:
            raise _too_many_bytes(where, self.max_bytes)

    def _add(self, value: Any, content_type: str, where: str) -> None:
        if isinstance(value, str):  # a text, or base64
            self._check_bytes(len(value), "text/", where)
        elif isinstance(value, bytes):
            self._check_bytes(len(value), "", where)
        if len(self.inputs) >= MAX_INPUTS:
            raise _too_many_inputs()
        self.inputs.append(Input(value, content_type, where))


def _too_many_inputs() -> RequestError:
    return RequestError(
        413, "too_many_inputs", f"more than {MAX_INPUTS} inputs: send several requests"
    )


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
    if _is_web_form(headers):
        return _web_form()
    inputs = ", ".join(sorted({*INPUT_NAMES, "b64", "instances"}))
    known = ", ".join(sorted(parameters)) or "none"
    return RequestError(
        400,
        "unknown_name",
        f"{str(name)[:60]!r} is neither an input ({inputs}) nor a parameter ({known})",
    )


def _is_web_form(headers: Mapping[str, Any]) -> bool:
    return "x-www-form-urlencoded" in content_type(headers).lower()


def _web_form() -> RequestError:
    return RequestError(
        415,
        "unsupported_type",
        "the body was sent as a web form, curl's default: for a text add "
        "-H 'Content-Type: text/plain', for JSON -H 'Content-Type: application/json', "
        "and send a file with curl -T FILE",
    )
