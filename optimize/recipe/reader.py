"""Turns YAML nodes into dataclasses, with line numbers in error messages."""

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from optimize.errors import RecipeError


class Loader(yaml.SafeLoader):
    """YAML with `1e-3` a number, as YAML 1.2 has it; YAML 1.1 asks for a point and a sign."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Named:
    """A data set or architecture chosen by name, with its options.

    `name` is a built-in one (`fashion_mnist`, `resnet`) or a user's `path/to/file.py:function`;
    `where` is the recipe's file and line, for messages.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    where: tuple[str, int | None] = ("", None)


class Reader:
    """Turns YAML nodes of one file into values; errors name the file and line."""

    def __init__(self, file: str) -> None:
        self.file = file

    def fail(self, node: yaml.Node, message: str) -> RecipeError:
        return RecipeError(message, self.file, node.start_mark.line + 1)

    def mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"{what} must be a mapping of names to values")
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if not name:
                raise self.fail(key, f"{what}: a key must be a plain word")
            if name in entries:
                raise self.fail(key, f"{name} is given twice in {what}; keep one")
            entries[name] = (key, value)
        return entries

    def unknown(self, key: yaml.Node, name: str, allowed: list[str], what: str) -> RecipeError:
        near = difflib.get_close_matches(name, allowed, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(sorted(allowed))}"
        return self.fail(key, f"{what} has no option {name!r}{hint}")

    def dataclass(self, node: yaml.Node, cls: type[Any], what: str) -> Any:
        hints = typing.get_type_hints(cls)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        if fields.pop("where", None) is not None:  # not for a recipe to say
            values["where"] = (self.file, node.start_mark.line + 1)
        for name, (key, value) in self.mapping(node, what).items():
            if name not in fields:
                raise self.unknown(key, name, list(fields), what)
            values[name] = self.value(value, hints[name], f"{what}.{name}")
        missing = [
            f.name
            for f in fields.values()
            if f.name not in values
            and f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise self.fail(node, f"{what} needs {missing[0]!r}")
        try:
            return cls(**values)
        except ValueError as error:  # a dataclass's own check
            raise self.fail(node, f"{what}: {error}") from error

    def named(self, node: yaml.Node, what: str) -> Named:
        """`resnet`, `{resnet: {width: 16}}`, or `{timm: resnet18}` for an option `name`."""
        where = (self.file, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode) and node.value:
            return Named(node.value, {}, where)
        entries = self.mapping(node, what)
        if len(entries) != 1:
            raise self.fail(node, f"{what} must be one name, as in `resnet: {{width: 16}}`")
        name, (_, options) = next(iter(entries.items()))
        if isinstance(options, yaml.SequenceNode):
            raise self.fail(options, f"{what}: the options of {name} must be a mapping")
        arguments = self.plain(options, what)
        if isinstance(options, yaml.ScalarNode) and arguments is not None:  # `timm: resnet18`
            arguments = {"name": arguments}
        if isinstance(arguments, dict) and not all(isinstance(key, str) for key in arguments):
            raise self.fail(options, f"{what}: the options of {name} must have names")
        return Named(name, arguments or {}, where)

    def plain(self, node: yaml.Node, what: str) -> Any:
        try:
            return yaml.SafeLoader("").construct_document(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fail(node, f"{what}: {error}") from error

    def value(self, node: yaml.Node, hint: Any, what: str) -> Any:
        origin = get_origin(hint)
        if origin in (Union, types.UnionType):
            kinds = [k for k in get_args(hint) if k is not type(None)]
            if self.plain_is_null(node):
                return None
            lists = [kind for kind in kinds if get_origin(kind) is list]
            if lists and isinstance(node, yaml.SequenceNode):
                return self.value(node, lists[0], what)
            return self.value(node, kinds[0], what)
        if hint is Named:
            return self.named(node, what)
        if dataclasses.is_dataclass(hint):
            return self.dataclass(node, typing.cast(type, hint), what)
        if origin is list:
            if not isinstance(node, yaml.SequenceNode):
                raise self.fail(node, f"{what} must be a list, as in [1, 2]")
            return [self.value(item, get_args(hint)[0], what) for item in node.value]
        value = self.plain(node, what)
        if origin is Literal:
            if value not in get_args(hint):
                choices = ", ".join(map(str, get_args(hint)))
                raise self.fail(node, f"{what} must be one of {choices}, not {value!r}")
            return value
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if hint is int and isinstance(value, float) and value.is_integer() and _has_exponent(node):
            value = int(value)  # 1e7
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            expected = {int: "a whole number", float: "a number", bool: "true or false"}
            raise self.fail(
                node, f"{what} must be {expected.get(hint, 'text')}, not {node_text(node)}"
            )
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise self.fail(node, f"{what} must be a finite number of 0 or more, not {value}")
        return value

    @staticmethod
    def plain_is_null(node: yaml.Node) -> bool:
        return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _has_exponent(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and "e" in node.value.lower()


def node_text(node: yaml.Node) -> str:
    """A node as written, shortened."""
    return repr(node.value)[:60] if isinstance(node, yaml.ScalarNode) else "a list or mapping"


def _compose(text: str) -> yaml.Node:
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set: {text!r} is not a YAML value") from error
    assert node is not None  # only an empty document composes to nothing
    return node


def override(root: yaml.Node, setting: str, reader: Reader) -> None:
    """Apply `--set a.b=value` to the composed document; list items are addressed by index."""
    path, separator, text = setting.partition("=")
    if not separator or not path:
        raise RecipeError(
            f"--set {setting}: write --set key=value, as in --set budget.max_drop=0.02"
        )
    node, keys = root, path.split(".")
    value = _compose(text or "null")
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        if isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            if last:
                node.value[int(key)] = value
            else:
                node = node.value[int(key)]
            continue
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"--set {path}: there is no {key!r} to set in this recipe")
        for index, (name, child) in enumerate(node.value):
            if name.value == key:
                if last:
                    node.value[index] = (name, value)
                elif isinstance(child, yaml.MappingNode | yaml.SequenceNode):
                    node = child
                else:
                    replacement = _compose("{}")
                    node.value[index] = (name, replacement)
                    node = replacement
                break
        else:
            name = yaml.ScalarNode("tag:yaml.org,2002:str", key, root.start_mark)
            child = value if last else _compose("{}")
            node.value.append((name, child))
            node = child
