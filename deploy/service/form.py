"""Forms, read as Netty reads them for TorchServe: multipart/form-data and web forms.

The results are (name, content type, bytes), in the order sent. Parts without a file name have
no content type; files have "application/octet-stream" unless they say another. A part that is
cut short, and everything after it, is left out, as Netty does.
"""

import codecs
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from deploy.service.failure import bad_form

Part = tuple[str, str, bytes]

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
OCTETS = "application/octet-stream"
_ENCODINGS = {"7bit", "8bit", "binary"}
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
    """The whole parts of a multipart form. Raises Failure for a part without a usable name."""
    delimiter = b"--" + mark
    at = len(body) - len(body.lstrip(b"\r\n\t "))
    while body.startswith(delimiter, at):
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
    while at >= 0:
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
    if re.search(rb"%(?![0-9A-Fa-f]{2})", text):
        raise bad_form("a form field holds a % that two hexadecimal digits do not follow")
    return unquote_to_bytes(text.replace(b"+", b" "))
