"""This project's metadata, from the running checkout or the installed distribution."""

import hashlib
import re
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

NAME = "marpress"
PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def version() -> str:
    """The version, such as `0.1.0`."""
    project = _checkout()
    return str(project["version"]) if project is not None else metadata.version(NAME)


@cache
def fingerprint() -> str:
    """SHA-256 of the sources that make artifacts, and of torch's version: two commits of one
    version may give different models."""
    import torch

    digest = hashlib.sha256(torch.__version__.encode())
    root = Path(__file__).resolve().parents[2]
    for file in sorted(p for name in ("optimize", "handlers") for p in (root / name).rglob("*.py")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def requirements(extra: str) -> list[str]:
    """Requirements of an extra, such as `["onnx==1.23.2"]`; empty for an unknown extra."""
    project = _checkout()
    if project is not None:
        return list(project["optional-dependencies"].get(extra, []))
    marked = [line.partition(";") for line in metadata.requires(NAME) or []]
    of_extra = re.compile(rf"""\bextra\s*==\s*["']{re.escape(extra)}["']""")
    return [requirement.strip() for requirement, _, marker in marked if of_extra.search(marker)]


def _checkout() -> dict[str, Any] | None:
    """The `project` table of a checkout's pyproject.toml; None if installed from a wheel.

    It takes precedence over an installed distribution, which may be older than the checkout.
    """
    try:
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8")).get("project", {})
    except (FileNotFoundError, tomllib.TOMLDecodeError):
        return None
    return project if project.get("name") == NAME else None
