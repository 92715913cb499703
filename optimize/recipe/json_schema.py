"""The JSON Schema of recipes, with which editors complete and check them.

It is made from what `read` checks: the dataclasses of options, and the signatures of the functions
that recipes name. What only values together tell, such as a sum, is left to `read`.
"""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from optimize.recipe.docstrings import entries, summary
from optimize.recipe.read import NAME, NOT_WRITTEN, REQUIRED
from optimize.recipe.reader import Named
from optimize.recipe.schema import Recipe, SearchOptions

NAME_OF_FILE = "recipe.schema.json"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
}
# Parameters without a default that a recipe fills in; the task gives the others.
_NEEDED = ("path", "file", "name")
# Of any metric that a recipe names.
_OUTPUT = {
    "type": "string",
    "description": "the output that is judged, where it is not the first or of its target's name",
}
Functions = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class TaskOptions:
    """What a task's recipes may say.

    Attributes:
        title: one line about the task.
        stages: the dataclass of each kind of stage's options.
        input: the dataclass of `input`; None if the task takes none.
        data, model, metric: the functions that a recipe can name, whose parameters are the
            options. Any other name is a file's, a folder's or a user's function. `metric` is None
            if the task has one of its own.
    """

    title: str
    stages: Mapping[str, type[Any]]
    input: type[Any] | None = None
    data: Functions = field(default_factory=dict)
    model: Functions = field(default_factory=dict)
    metric: Functions | None = None


def schema(tasks: Mapping[str, TaskOptions]) -> dict[str, Any]:
    """The schema of the recipes of these tasks, draft 2020-12."""
    said = entries(Recipe)
    hints = typing.get_type_hints(Recipe)
    own: dict[str, Any] = {
        "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "task": {
            "enum": sorted(tasks),
            "markdownDescription": "\n".join(f"- `{n}`: {tasks[n].title}" for n in sorted(tasks)),
        },
        "search": {"anyOf": [_TYPES[bool], _dataclass(SearchOptions, {})]},
        **{key: {} for key in ("data", "model", "stages", "input", "metric")},
    }
    properties = {
        f.name: {**own.get(f.name, _value(hints[f.name], {})), **_described(said, f.name)}
        for f in dataclasses.fields(Recipe)
        if f.name not in NOT_WRITTEN
    }
    definitions: dict[str, Any] = {}
    branches = []
    for name in sorted(tasks):
        parts, made = _task(name, tasks[name])
        definitions |= made
        chosen = {"properties": {"task": {"const": name}}, "required": ["task"]}
        branches.append({"if": chosen, "then": {"properties": parts}})
    return {
        "$schema": _DIALECT,
        "title": "A recipe of Marpress",
        "description": summary(Recipe),
        "type": "object",
        "properties": properties,
        "required": list(REQUIRED),
        "additionalProperties": False,
        "allOf": branches,
        "$defs": definitions,
    }


def _task(name: str, task: TaskOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `data`, `model`, ... of a task's recipe must be, and the definitions they refer to."""

    def reference(part: str) -> dict[str, str]:
        return {"$ref": f"#/$defs/{name}.{part}"}

    made = {
        f"{name}.data": _named(task.data),
        f"{name}.model": _named(task.model),
        **{
            f"{name}.{kind}": _dataclass(options, reference("model"))
            for kind, options in task.stages.items()
        },
    }
    kinds = {
        kind: {"anyOf": [reference(kind), {"type": "null"}], "description": summary(options)}
        for kind, options in task.stages.items()
    }
    one = {"type": "object", "properties": kinds, "minProperties": 1, "maxProperties": 1}
    stage = {"anyOf": [{"enum": list(kinds)}, {**one, "additionalProperties": False}]}
    parts: dict[str, Any] = {
        "data": reference("data"),
        "model": reference("model"),
        "stages": {"type": "array", "items": stage},
        "input": _dataclass(task.input, {}) if task.input is not None else False,
        "metric": False if task.metric is None else _named(task.metric, output=_OUTPUT),
    }
    return parts, made


def _named(functions: Functions, **also: Any) -> dict[str, Any]:
    """A name, or one name with its options; a name that is no function's may have any.

    `also` are options that all functions have.
    """
    known = {}
    for name, function in functions.items():
        options = _function(function)
        options["properties"] |= also
        known[name] = {
            "anyOf": [options, {"type": ["string", "null"]}],
            "description": summary(function),
        }
    # A path or `file.py:function`: what is neither is a misspelt name.
    others = {"type": "object", "additionalProperties": True}
    named: dict[str, Any] = {
        "type": "object",
        "properties": known,
        "patternProperties": {r"[:/.]": others},
        "additionalProperties": not functions,
        "minProperties": 1,
        "maxProperties": 1,
    }
    text = {"type": "string", "minLength": 1}
    choices = [{"enum": list(known)}, {**text, "pattern": r"[:/.]"}] if known else [text]
    return {"anyOf": [*choices, named]}


def _function(function: Callable[..., Any]) -> dict[str, Any]:
    """The options that a function takes: its parameters of types that YAML has."""
    said, hints = entries(function), typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    free = False
    for name, parameter in inspect.signature(function).parameters.items():
        free |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        given = parameter.default is parameter.empty and name not in _NEEDED
        if not given and _is_yaml(hint := hints.get(name, Any)):
            found = {**_value(hint, {}, least=None), **_described(said, name)}
            properties[name] = {**found, **_default(parameter.default)}
    return {"type": "object", "properties": properties, "additionalProperties": free}


def _dataclass(cls: type[Any], model: dict[str, Any]) -> dict[str, Any]:
    """The options of a dataclass; where one names a model, it is as `model` says."""
    said, hints = entries(cls), typing.get_type_hints(cls)
    properties, required = {}, []
    for one in dataclasses.fields(cls):
        if one.name == "where":  # not for a recipe to say
            continue
        default = one.default
        if one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        elif default is dataclasses.MISSING:
            required.append(one.name)
        properties[one.name] = {
            **_value(hints[one.name], model),
            **_described(said, one.name),
            **_default(default),
        }
    return {
        "description": summary(cls),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": False,
    }


def _value(hint: Any, model: dict[str, Any], least: int | None = 0) -> dict[str, Any]:
    """What a value of this type is; numbers are `least` or more."""
    origin, inside = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if hint is type(None):
        return {"type": "null"}
    if origin in (Union, types.UnionType):
        kinds = [_value(kind, model, least) for kind in inside]
        return {"anyOf": [kind for n, kind in enumerate(kinds) if kind not in kinds[:n]]}
    if hint is Named:
        return model or _named({})
    if dataclasses.is_dataclass(hint):
        return _dataclass(typing.cast(type, hint), model)
    if origin is Literal:
        return {"enum": list(inside)}
    if origin in (list, tuple, Sequence):
        return {"type": "array", "items": _value(inside[0], model, least)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _value(inside[1], model, least)}
    bound = {"minimum": least} if hint in (int, float) and least is not None else {}
    return {**_TYPES[hint], **bound}


def _is_yaml(hint: Any) -> bool:
    """Whether a recipe can hold a value of this type, rather than the program alone."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return not any(part is Path or dataclasses.is_dataclass(part) for part in parts)


def _described(said: Mapping[str, str], name: str) -> dict[str, str]:
    return {"description": said[name]} if name in said else {}


def _default(value: Any) -> dict[str, Any]:
    """What an editor fills in; NaN stands for one that depends on other options."""
    plain = isinstance(value, str | int | float) or (isinstance(value, list) and value)
    if not plain or (isinstance(value, float) and not math.isfinite(value)):
        return {}
    return {"default": value}
