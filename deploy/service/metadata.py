"""What a model says about itself: its handler's description, and its tensors by name."""

import json
from typing import Any

from deploy.service.failure import Failure, internal
from deploy.service.models import Model
from deploy.service.tensors import TABLE, Tensor

_NO_INPUTS = frozenset({"b64", "instances", "parameters"})
_KINDS = {"integer": "INT64", "number": "FP32", "boolean": "BOOL"}


async def description(model: Model) -> Any:
    """The handler's own description of its model, asked for once. Raises Failure."""
    if model.described is None:
        model.described = await _described(model)
    return model.described


async def signature(model: Model) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs as the handler's JSON Schemas tell; -1 for sizes that vary.

    Raises Failure.
    """
    if declared := await tensors_of(model):
        return tuple(  # type: ignore[return-value]
            [Tensor(t["name"], t["datatype"], tuple(t["shape"]), []) for t in declared[side]]
            for side in ("inputs", "outputs")
        )
    name = next((n for n in await _input_properties(model) if n not in _NO_INPUTS), "data")
    schema = _object(await description(model)).get("output") or {}
    one = (schema.get("oneOf") or [schema])[0] if isinstance(schema, dict) else {}
    produced = dict(_properties(one))
    always = _object(one).get("required") or list(produced)
    table = _properties(_object(produced.pop(TABLE, None)).get("items"))
    outputs = [_declared(key, entry, (-1, -1)) for key, entry in table.items()]
    outputs += [_declared(key, entry, (-1,)) for key, entry in produced.items() if key in always]
    return [Tensor(name, "BYTES", (-1,), [])], outputs or [Tensor("output", "BYTES", (-1,), [])]


async def tensors_of(model: Model) -> dict[str, Any]:
    """`inputs` and `outputs` as KServe declares them, of a model that speaks its protocol itself;
    empty for any other. Raises Failure."""
    return _object(_object(_object(await description(model)).get("input")).get("x-tensors"))


async def takes_text(model: Model) -> bool:
    """Whether the model reads text, so that bytes sent to it are UTF-8. Raises Failure."""
    return bool({"text", "texts"} & set(await _input_properties(model)))


async def _described(model: Model) -> Any:
    job = model.pool.submit({}, {"describe": "True"})
    answer = await job.answer() if job is not None else None
    if answer is None:
        raise internal(500, f"no worker of {model.bundle.name} described it")
    value = json.loads(answer.body)
    if answer.status >= 400:
        raise Failure(answer.status, str(value.get("type")), str(value.get("message")))
    return value


async def _input_properties(model: Model) -> dict[str, Any]:
    return _properties(_object(await description(model)).get("input"))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _properties(schema: Any) -> dict[str, Any]:
    return _object(_object(schema).get("properties"))


def _declared(name: str, schema: Any, shape: tuple[int, ...]) -> Tensor:
    kind = _object(schema).get("type")
    return Tensor(name, _KINDS.get(kind, "BYTES") if isinstance(kind, str) else "BYTES", shape, [])
