"""This project's own metadata: of the checkout that runs, or of the installed distribution."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

NAME = "marpress"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def version() -> str:
    """The version, such as `0.1.0`."""
    project = _checkout()
    return str(project["version"]) if project is not None else metadata.version(NAME)


def requirements(extra: str) -> list[str]:
    """Requirements of an extra, such as `["onnx==1.23.2"]`; empty if there is no such extra."""
    project = _checkout()
    if project is not None:
        return list(project["optional-dependencies"].get(extra, []))
    marked = [line.partition(";") for line in metadata.requires(NAME) or []]
    wanted = re.compile(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""")
    return [requirement.strip() for requirement, _, marker in marked if wanted.search(marker)]


def _checkout() -> dict[str, Any] | None:
    """The `project` table beside this package; None where it was installed from a wheel.

    It wins over an installed distribution, which may be of another day than the code beside it.
    """
    try:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8")).get("project", {})
    except (FileNotFoundError, tomllib.TOMLDecodeError):
        return None
    return project if project.get("name") == NAME else None
