"""Reads recipes: YAML into dataclasses, or an error with file, line and what was expected."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from optimize.errors import RecipeError
from optimize.recipe.reader import Loader, Named, Reader, override
from optimize.recipe.schema import (
    Budget,
    Licences,
    Recipe,
    ReportOptions,
    SearchOptions,
    Serving,
    StageSpec,
)

StageOptions = Mapping[str, type[Any]]
"""The dataclass of a stage's options, by the kind of stage."""

REQUIRED = ("name", "task", "data", "model", "stages")
_OPTIONAL = {
    "budget": Budget,
    "serving": Serving,
    "licences": Licences,
    "report": ReportOptions,
    "seed": int,
    "checkpoint": str,
    "controls": bool,
    "random_weights": bool,
    "metric": Named,
}
NOT_WRITTEN = ("folder", "file", "settings")  # fields of Recipe that are not keys of a recipe
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")


def read(
    path: Path,
    overrides: list[str] | None = None,
    *,
    tasks: Mapping[str, Callable[[], StageOptions]],
    inputs: Mapping[str, Callable[[], type[Any] | None]] | None = None,
) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `key.sub=value` settings that replace what the file says.
        tasks: from a task's name to a function for the options of its stages, called only for the
            recipe's task.
        inputs: likewise to the dataclass of the task's `input`; None if it takes none.

    Raises:
        RecipeError: with file, line and what was expected.
    """
    reader = Reader(str(path))
    root = _document(path)
    for setting in overrides or []:
        override(root, setting, reader)
    entries = _entries(reader, root)

    def value(key: str, hint: Any) -> Any:
        return reader.value(entries[key], hint, key)

    name, task = value("name", str), value("task", str)
    if not NAME.fullmatch(name):
        raise reader.fail(
            entries["name"], f"name {name!r}: use letters, digits, '-', '_' and '.' only"
        )
    if task not in tasks:
        choices = ", ".join(sorted(tasks))
        raise reader.fail(entries["task"], f"task must be one of {choices}, not {task!r}")
    optional = {key: value(key, hint) for key, hint in _OPTIONAL.items() if key in entries}
    if "search" in entries:
        optional["search"] = _search(reader, entries["search"])
    if "input" in entries:
        kind = inputs[task]() if inputs else None
        if kind is None:
            raise reader.fail(entries["input"], f"input: {task} has no such options; leave it out")
        optional["input"] = value("input", kind)
    recipe = Recipe(
        name=name,
        task=task,
        data=value("data", Named),
        model=value("model", Named),
        stages=_stages(reader, entries["stages"], tasks[task]()),
        folder=path.resolve().parent,
        file=str(path),
        settings=tuple(overrides or ()),
        **optional,
    )
    _check_notice(reader, entries, recipe)
    return recipe


def _check_notice(reader: Reader, entries: dict[str, yaml.Node], recipe: Recipe) -> None:
    """Refuse a notice that cannot be read before hours of work, not after them."""
    if recipe.licences.notice is None:
        return
    path = recipe.folder / recipe.licences.notice
    try:
        path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise reader.fail(entries["licences"], f"notice {path}: {reason}") from error


def _document(path: Path) -> yaml.Node:
    """The file's YAML as nodes, which keep their line numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"cannot be read: {reason}", str(path)) from error
    try:
        root = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        if "\\t" in problem:
            problem += ": YAML is indented with spaces"
        raise RecipeError(problem, str(path), mark.line + 1 if mark else None) from error
    if root is None:
        raise RecipeError("is empty; see recipes/ for examples", str(path))
    return root


def _entries(reader: Reader, root: yaml.Node) -> dict[str, yaml.Node]:
    """The recipe's values by key; refuses unknown and missing keys."""
    allowed = [f.name for f in dataclasses.fields(Recipe) if f.name not in NOT_WRITTEN]
    entries = {}
    for name, (key, node) in reader.mapping(root, "the recipe").items():
        if name not in allowed:
            raise reader.unknown(key, name, allowed, "the recipe")
        entries[name] = node
    for name in REQUIRED:
        if name not in entries:
            raise reader.fail(root, f"the recipe needs {name!r}")
    return entries


def _stages(reader: Reader, node: yaml.Node, kinds: StageOptions) -> list[StageSpec]:
    """Stages, written `- kind: {options}`; the name of a second `prune` is `prune-2`."""
    if not isinstance(node, yaml.SequenceNode):
        raise reader.fail(node, "stages must be a list, each `- kind: {options}`")
    stages: list[StageSpec] = []
    for item in node.value:
        named = reader.named(item, "a stage")
        kind = named.name
        if kind not in kinds:
            raise reader.fail(item, f"there is no stage {kind!r}; there are {', '.join(kinds)}")
        options = reader.dataclass(_options(reader, item), kinds[kind], kind)
        count = sum(stage.kind == kind for stage in stages)
        stages.append(
            StageSpec(kind, f"{kind}-{count + 1}" if count else kind, options, named.where)
        )
    return stages


def _options(reader: Reader, stage: yaml.Node) -> yaml.Node:
    """The mapping of a stage's options; empty if only its name is written."""
    node: yaml.Node | None = stage.value[0][1] if isinstance(stage, yaml.MappingNode) else None
    if node is None or reader.plain_is_null(node):
        return yaml.MappingNode("tag:yaml.org,2002:map", [], stage.start_mark)
    return node


def _search(reader: Reader, node: yaml.Node) -> SearchOptions | None:
    """`search: true`, or a mapping of its options."""
    if isinstance(node, yaml.ScalarNode):
        return SearchOptions() if reader.value(node, bool, "search") else None
    options: SearchOptions = reader.dataclass(node, SearchOptions, "search")
    return options
