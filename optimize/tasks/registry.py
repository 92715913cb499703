"""The tasks there are, by name. Adding one is a line here, or a call of `register`."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from optimize.recipe import read
from optimize.recipe.schema import Recipe
from optimize.tasks.base import Task

_MODULES = {
    "image_classification": "optimize.tasks.image",
    "text_classification": "optimize.tasks.text",
    "speech_recognition": "optimize.tasks.speech",
}


def names() -> list[str]:
    """Tasks there are."""
    return sorted(_MODULES)


def load(name: str) -> Task:
    """The task of that name, imported only now."""
    task: Task = importlib.import_module(_MODULES[name])
    return task


def _options(name: str) -> dict[str, type]:
    return {kind: stage.options for kind, stage in load(name).STAGES.items()}


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe of any task there is.

    Args:
        path: the YAML file.
        overrides: `key.sub=value` settings that replace what the file says.

    Raises:
        RecipeError: with file, line and what was expected.
    """
    tasks: dict[str, Callable[[], read.StageOptions]] = {
        name: partial(_options, name) for name in names()
    }
    return read.read(path, overrides, tasks=tasks)
