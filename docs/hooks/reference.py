"""mkdocs hook: reference pages from the sources: options, commands, Python functions."""

import argparse
import dataclasses
import importlib
import inspect
import os
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import marpress
from deploy import __main__ as deploy
from optimize import __main__ as optimize
from optimize.recipe import docstrings, schema
from optimize.tasks import registry

COLUMNS = "80"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"options": options(), "commands": commands(), "python": python()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def options() -> str:
    """Every option of a recipe, from the dataclasses that recipes are read into."""
    lines = [
        "# Every option of a recipe",
        "",
        "This page is made from the sources. [Recipes](../recipes.md) introduces them, and",
        "[compression](../compression.md) says how to choose.",
    ]
    for key, kind in (
        ("budget", schema.Budget),
        ("serving", schema.Serving),
        ("search", schema.SearchOptions),
        ("licences", schema.Licences),
    ):
        lines += ["", f"## `{key}`", "", *table(kind)]
    nested: dict[str, type[Any]] = {}
    for task in registry.names():
        loaded = registry.load(task)
        lines += ["", f"## Task `{task}`"]
        if loaded.input_options is not None:
            lines += ["", f"### `input` of {task}", "", *table(loaded.input_options, nested)]
        for kind, stage in loaded.stages.items():
            lines += ["", f"### `{kind}` of {task}", "", docstrings.summary(stage.options), ""]
            lines += table(stage.options, nested)
    lines += ["", "## Groups of options", "", "Options that hold options of their own."]
    shown: set[str] = set()
    while rest := [name for name in nested if name not in shown]:  # one may name others
        for name in rest:
            shown.add(name)
            lines += ["", f"### {name}", "", docstrings.summary(nested[name]), ""]
            lines += table(nested[name], nested)
    return "\n".join(lines) + "\n"


def table(kind: type[Any], nested: dict[str, type[Any]] | None = None) -> list[str]:
    """A dataclass's fields, as rows of Markdown; dataclasses among them are put into `nested`."""
    meanings = docstrings.entries(kind)
    rows = []
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in ("where", "folder"):  # where it was written, for messages
            continue
        told = _type(hints[field.name], {} if nested is None else nested)
        cells = [f"`{field.name}`", told, _default(field), meanings.get(field.name, "")]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    if not rows:
        return ["No options."]
    return ["| option | type | default | meaning |", "|---|---|---|---|", *rows]


def _type(hint: Any, nested: dict[str, type[Any]]) -> str:
    """A type in words: literal values, names, and links to groups of options."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        name = hint.__name__
        nested.setdefault(name, typing.cast("type[Any]", hint))
        return f"[{name}](#{name.lower()})"
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one, nested) for one in arguments)
    if hint is types.NoneType:
        return "nothing"
    if origin is not None:
        inner = ", ".join(_type(one, nested) for one in arguments if one is not Ellipsis)
        return f"{origin.__name__} of {inner}"
    return str(getattr(hint, "__name__", hint))


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return "its own" if dataclasses.is_dataclass(value) else f"`{value}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(field.default):
        return "its own"
    return "" if field.default is None else f"`{field.default}`"


def commands() -> str:
    """What every command's `--help` says."""
    os.environ["COLUMNS"] = COLUMNS  # the site's build ends with this process
    lines = [
        "# Every command",
        "",
        "This page is what `--help` prints. An installed package has all commands under one name,",
        "`marpress`: `marpress run` is `python -m optimize run`.",
    ]
    for prog, parser in (
        ("python -m optimize", optimize._parser("python -m optimize")),
        ("python -m deploy", deploy._parser("python -m deploy")),
    ):
        lines += ["", f"## {prog}", "", "```text", parser.format_help().rstrip(), "```"]
        for verb, sub in _verbs(parser):
            lines += ["", f"### {prog} {verb}", "", "```text", sub.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def python() -> str:
    """The functions that `import marpress` has, with their docstrings."""
    lines = [
        "# From Python",
        "",
        "What `import marpress` has. Each is imported when it is first used. The options of stages",
        "are dataclasses: [every option](options.md) lists their fields.",
    ]
    for name in marpress.__all__:
        function = getattr(marpress, name)
        if not callable(function):
            continue
        home = importlib.import_module(function.__module__).__name__
        arguments = inspect.signature(function).replace(return_annotation=inspect.Signature.empty)
        names = [_argument(one) for one in arguments.parameters.values()]
        lines += ["", f"## {name}", "", f"`{name}({', '.join(names)})` of `{home}`", ""]
        lines += _docstring(inspect.getdoc(function) or "")
    return "\n".join(lines) + "\n"


def _argument(one: inspect.Parameter) -> str:
    return one.name if one.default is inspect.Parameter.empty else f"{one.name}={one.default!r}"


def _docstring(text: str) -> list[str]:
    """A docstring's sections as Markdown: arguments and errors as lists."""
    lines: list[str] = []
    for part in text.split("\n\n"):
        title, _, body = part.partition("\n")
        if title not in ("Args:", "Raises:", "Returns:"):
            lines += [part, ""]
            continue
        entries = textwrap.dedent(body)
        lines += [f"**{title.removesuffix(':').replace('Args', 'Arguments')}**", ""]
        if title == "Returns:":
            lines += [entries, ""]
            continue
        for names, meaning in re.findall(r"^([\w, ]+): (.*(?:\n[ \t]+.*)*)", entries, re.MULTILINE):
            told = ", ".join(f"`{name}`" for name in names.split(", "))
            lines.append(f"- {told}: {' '.join(meaning.split())}")
        lines.append("")
    return lines
