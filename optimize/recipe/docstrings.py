"""What docstrings say of options, for the schema of recipes."""

import inspect
import re
from typing import Any


def summary(described: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    text = inspect.getdoc(described) or ""
    return " ".join(text.partition("\n\n")[0].split())


def entries(described: Any) -> dict[str, str]:
    """What the sections `Attributes:` and `Args:` say, by name; of a class its bases' too."""
    found: dict[str, str] = {}
    owners = reversed(described.__mro__) if isinstance(described, type) else (described,)
    for owner in owners:
        text = owner.__dict__.get("__doc__") if isinstance(owner, type) else owner.__doc__
        found |= _section(inspect.cleandoc(text or ""))
    return found


def _section(text: str) -> dict[str, str]:
    """The entries of a section, each `name, name: text` and lines that are indented further."""
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in text.splitlines():
        if re.fullmatch(r"(Attributes|Args):", line):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r" {4}(\w[\w, ]*): (.*)", line)):
            names = [name.strip() for name in match[1].split(",")]
            found |= dict.fromkeys(names, match[2])
        elif inside and line.startswith(" " * 8):
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
