"""JSON bodies, measured on their bytes before they are parsed.

Python makes up to sixty times as many bytes of a JSON text: a body of empty lists of 32 MB takes
1.5 GB. So what it holds is counted first, at the speed of memory.
"""

import contextlib
import gc
import json
import re
from collections.abc import Iterator
from typing import Any

from handlers.errors import RequestError

MAX_DEPTH = 8
# Three numbers a pixel in a list of their own: a picture of a megapixel counts seven million.
MAX_WEIGHT = 8_388_608
_LIST_WEIGHT = 4
# A string is looked at before it is parsed, a tenth of a microsecond each.
MAX_QUOTES = 524_288
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def parse(data: bytes, where: str = "body", max_weight: int = MAX_WEIGHT) -> Any:
    """The value of a JSON text.

    Args:
        data: UTF-8, or another encoding that JSON allows.
        where: names it in error messages.
        max_weight: most values in it; a list or object counts four.

    Raises:
        RequestError: 400 for lists nested deeper than MAX_DEPTH, 413 over `max_weight`.
        ValueError: it is not JSON.
    """
    encoding = json.detect_encoding(data)
    if not encoding.startswith("utf-8"):  # in which a letter may have the byte of a quotation mark
        data = data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    check(data, where, max_weight)
    try:
        with _without_collector():
            return json.loads(data)
    except RecursionError:  # brackets that nothing closes
        raise ValueError("nested too deeply") from None


def check(data: bytes, where: str = "body", max_weight: int = MAX_WEIGHT) -> None:
    """Refuse a JSON text that nests too deeply or holds too much, as `parse` does."""
    if data.count(b'"') > MAX_QUOTES:
        raise _too_many(where, max_weight)
    if _opened(data) <= MAX_DEPTH and data.count(b",") + _LIST_WEIGHT * MAX_DEPTH <= max_weight:
        return
    bare = _STRING.sub(b"", data)  # what a string holds counts for nothing
    if bare.count(b",") + _LIST_WEIGHT * _opened(bare) > max_weight:
        raise _too_many(where, max_weight)
    brackets = bare.translate(_BRACKETS, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise RequestError(
            400, "bad_json", f"{where} is nested too deeply: {MAX_DEPTH} lists or objects at most"
        )


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """No search for garbage while a million lists are made, none of which is any: half the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _opened(data: bytes) -> int:
    return data.count(b"[") + data.count(b"{")


def _too_many(where: str, max_weight: int) -> RequestError:
    return RequestError(
        413,
        "too_many_values",
        f"{where} holds too many JSON values: {max_weight} at most, a list counting "
        f"{_LIST_WEIGHT}; send files, base64 or several requests",
    )
