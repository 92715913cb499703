"""Forms, read as Netty reads them for TorchServe: multipart/form-data and web forms.

The results are (name, content type, bytes), in the order sent. Parts without a file name have
no content type; files have "application/octet-stream" unless they say another. A part that is
cut short, and everything after it, is left out, as Netty does.
"""

import codecs
import re
from collections.abc import Iterator

import numpy as np

from deploy.service.failure import Failure, bad_form, too_many
from handlers.payload import MAX_INPUTS

Part = tuple[str, str, bytes]

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
OCTETS = "application/octet-stream"
# More than the inputs and parameters that any handler takes.
MAX_PARTS = MAX_INPUTS + 64
_MAX_PART_HEADERS = 64
_ENCODINGS = {"7bit", "8bit", "binary"}
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HEX = np.zeros(256, np.uint8)
for _digit in b"0123456789ABCDEFabcdef":
    _HEX[_digit] = int(chr(_digit), 16)
_PARAMETER = re.compile(r';\s*([\w!#$%&*+.^`|~-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)')


def boundary(content_type: str) -> bytes | None:
    """The boundary of a multipart form, or None where TorchServe sees no such form.

    It compares the type's case exactly, and takes a form without a boundary for a raw body.
    """
    if not content_type.startswith(MULTIPART):
        return None
    mark = _parameters(content_type).get("boundary")
    return mark.encode("latin-1", "replace") if mark else None


def multipart(body: bytes, mark: bytes) -> Iterator[Part]:
    """The whole parts of a multipart form.

    Raises Failure for a part without a usable name, and for more than MAX_PARTS parts.
    """
    delimiter = b"--" + mark
    at = len(body) - len(body.lstrip(b"\r\n\t "))
    count = 0
    while body.startswith(delimiter, at):
        count += 1
        if count > MAX_PARTS + 1:  # the last delimiter ends the form
            raise _too_many_parts()
        at += len(delimiter)
        if body.startswith(b"--", at):
            return
        headers, start = _part_headers(body, _line_end(body, at))
        if start < 0:
            return
        end, following = _content_end(body, start, delimiter)
        if end < 0:
            return
        yield _part(headers, body[start:end])
        at = following


def urlencoded(body: bytes) -> Iterator[Part]:
    """The fields of a web form; a last one without "=" is left out. Raises Failure."""
    if body.count(b"&") >= MAX_PARTS:
        raise _too_many_parts()
    fields = body.rstrip(b"\r\n").split(b"&")
    for index, field in enumerate(fields):
        name, separator, value = field.partition(b"=")
        if not separator and index == len(fields) - 1:
            return
        key = _unquoted(name).decode("utf-8", "replace")
        if not key.strip():
            raise bad_form("a form field has an empty name")
        yield key, "", _unquoted(value)


def _line_end(body: bytes, at: int) -> int:
    """The start of the next line, -1 if there is none."""
    newline = body.find(b"\n", at)
    return newline + 1 if newline >= 0 else -1


def _part_headers(body: bytes, at: int) -> tuple[dict[str, str], int]:
    """The header lines from `at`, and where the content starts (-1: it never does)."""
    headers: dict[str, str] = {}
    while at >= 0 and len(headers) <= _MAX_PART_HEADERS:
        end = _line_end(body, at)
        line = body[at : end if end >= 0 else len(body)].strip(b"\r\n")
        if end >= 0 and not line:
            return headers, end
        name, _, value = line.decode("utf-8", "replace").partition(":")
        headers[name.strip().lower()] = value.strip()
        at = end
    return headers, -1


def _content_end(body: bytes, start: int, delimiter: bytes) -> tuple[int, int]:
    """Where the content ends and the next delimiter starts; (-1, -1) if it is cut short."""
    if body.startswith(delimiter, start):
        return start, start
    newline = body.find(b"\n" + delimiter, start)
    if newline < 0:
        return -1, -1
    crlf = newline > start and body[newline - 1 : newline] == b"\r"
    return newline - 1 if crlf else newline, newline + 1


def _part(headers: dict[str, str], content: bytes) -> Part:
    disposition = headers.get("content-disposition", "")
    if disposition.partition(";")[0].strip().lower() not in {"form-data", "file"}:
        raise bad_form("a part of the form has no Content-Disposition: form-data")
    about = _parameters(disposition)
    name = about.get("name", "")
    if not name.strip():
        raise bad_form("a part of the form has no name")
    encoding = headers.get("content-transfer-encoding", "binary").lower()
    if encoding not in _ENCODINGS:
        raise bad_form(f"TransferEncoding Unknown: {encoding}")
    declared = headers.get("content-type", "")
    _check_charset(_parameters(declared).get("charset"))
    if "filename" not in about and "filename*" not in about:
        return name, "", content
    return name, declared.partition(";")[0].strip() or OCTETS, content


def _parameters(header: str) -> dict[str, str]:
    """The `; key=value` parameters of a header, keys in lower case, values unquoted."""
    parameters = {}
    for key, value in _PARAMETER.findall(header):
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] == '"':
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters[key.lower()] = value
    return parameters


def _check_charset(name: str | None) -> None:
    if name:
        try:
            codecs.lookup(name)
        except (LookupError, ValueError):
            raise bad_form(f"the charset {name[:40]} of a part is unknown") from None


def _unquoted(text: bytes) -> bytes:
    text = text.replace(b"+", b" ")
    if b"%" not in text:
        return text
    if _BAD_ESCAPE.search(text):
        raise bad_form("a form field holds a % that two hexadecimal digits do not follow")
    # With arrays: Python's own takes seconds for megabytes of escapes.
    raw = np.frombuffer(text, np.uint8)
    at = np.flatnonzero(raw == ord("%"))
    decoded = raw.copy()
    decoded[at] = _HEX[raw[at + 1]] << 4 | _HEX[raw[at + 2]]
    kept = np.ones(len(raw), bool)
    kept[at + 1] = kept[at + 2] = False
    return bytes(decoded[kept])


def _too_many_parts() -> Failure:
    return too_many(f"a form of more than {MAX_PARTS} parts: {MAX_INPUTS} inputs are taken")
