"""An HTTP request as the row and headers that TorchServe's worker hands to a handler."""

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.service import form
from deploy.service.form import Part

Row = dict[str, Any]


def read(body: bytes, headers: Iterable[tuple[str, str]]) -> tuple[Row, dict[str, Any]]:
    """Row and headers of a request with that body.

    The row maps names to bytes: "body" for a raw body, else the names of the form's fields; of
    several fields with one name the last counts. The headers hold {"content-type": ...} per part
    under its name, then the request's own, in lower case. Raises Failure for a form that cannot
    be parsed.
    """
    named = {name.lower(): value for name, value in headers}
    parts = _parts(body, named)
    row: Row = {}
    described: dict[str, Any] = {}
    for name, kind, value in parts:
        row[name] = value
        described[name] = {"content-type": kind}
    return row, {**described, **named}


def _parts(body: bytes, headers: Mapping[str, str]) -> Iterable[Part]:
    declared = headers.get("content-type", "")
    mark = form.boundary(declared)
    if mark is not None:
        return form.multipart(body, mark)
    kind = declared.partition(";")[0].strip()
    if kind.lower() == form.URLENCODED:
        return form.urlencoded(body)
    return [("body", kind, body)]
