"""Between handlers' JSON and named tensors, which TensorFlow Serving and KServe clients speak.

A handler's answer for one input becomes one value per output name: an object's entries are its
outputs, and a list of objects with the same keys becomes one list per key, as the top labels of a
classifier under `predictions` do beside what else it answers. Anything but a number, a string or a
rectangular list of them is sent as JSON text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deploy.service.failure import Failure

# The key of a classifier's answer that holds its labels, best first.
TABLE = "predictions"


@dataclass(frozen=True)
class Tensor:
    """`data` is flat and row by row; `kind` BOOL, INT64, FP32 or BYTES (of str)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: list[Any]


def value(body: bytes) -> Any:
    """A handler's answer: JSON, or else the text that it is. Raises Failure for other bytes."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Failure(
            501, "NotATensor", "the model answers neither JSON nor text: ask it at /predictions"
        ) from None


def refusal(status: int, body: bytes) -> Failure:
    """A handler's error: its type and message, or all that it says."""
    try:
        said = value(body)
    except Failure:
        said = "the model refused the request"
    about = said if isinstance(said, dict) else {}
    return Failure(status, str(about.get("type", "model_error")), str(about.get("message", said)))


def outputs(answer: Any) -> dict[str, Any]:
    """One input's answer as output name -> value."""
    if _is_table(answer):
        return _columns(answer)
    if isinstance(answer, dict) and answer:
        rest = dict(answer)
        table = rest.pop(TABLE) if _is_table(rest.get(TABLE)) else []
        named = _columns(table) if table else {}
        return named | {str(k): _plain(v) for k, v in rest.items() if k not in named}
    return {"output": _plain(answer)}


def per_input(answer: Any) -> list[Any]:
    """The handler's answers to several inputs, one each."""
    return answer if isinstance(answer, list) else [answer]


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """The outputs of several inputs, name -> one value per input; absent ones are None."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def stacked(name: str, values: list[Any]) -> Tensor:
    """One tensor of all values, one per input; JSON text if they have no common shape."""
    shape, flat = shape_of(values)
    if shape is None:
        texts = [v if isinstance(v, str) else json.dumps(v) for v in values]
        return Tensor(name, "BYTES", (len(texts),), texts)
    kind = _kind(flat)
    if kind == "BYTES":
        flat = [v if isinstance(v, str) else json.dumps(v) for v in flat]
    return Tensor(name, kind, shape, [float(v) for v in flat] if kind == "FP32" else flat)


def shape_of(value: Any) -> tuple[tuple[int, ...] | None, list[Any]]:
    """Shape and flat content of nested lists; shape None where they are ragged."""
    if not isinstance(value, list):
        return (), [value]
    shapes, flat = set(), []
    for entry in value:
        shape, content = shape_of(entry)
        shapes.add(shape)
        flat += content
    if len(shapes) > 1 or None in shapes:
        return None, flat
    inner = shapes.pop() if shapes else ()
    return (len(value), *(inner or ())), flat


def _is_table(answer: Any) -> bool:
    return (
        isinstance(answer, list)
        and bool(answer)
        and all(isinstance(entry, dict) and entry for entry in answer)
        and len({tuple(entry) for entry in answer}) == 1
    )


def _columns(table: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {str(key): [_plain(entry[key]) for entry in table] for key in table[0]}


def _plain(value: Any) -> Any:
    """The value if it fits a tensor, else its JSON text."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        shape, flat = shape_of(value)
        if shape is not None and all(isinstance(v, bool | int | float | str) for v in flat):
            return value
    return json.dumps(value)


def _kind(flat: list[Any]) -> str:
    if flat and all(isinstance(v, bool) for v in flat):
        return "BOOL"
    if all(isinstance(v, int) and not isinstance(v, bool) for v in flat):
        return "INT64"
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in flat):
        return "FP32"
    return "BYTES"
