"""What each kind of model exports: one module per task, with a function `load`."""

import importlib
from pathlib import Path
from typing import Any

from optimize.errors import ModelError
from optimize.export.subject import Exportable
from optimize.recipe.schema import Recipe
from optimize.tasks.base import TASK_NAMES


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """The modules of an artefact to export, and how to measure what was exported.

    Args:
        recipe: the one that made the artefact.
        folder: the artefact's.
        report: its report.

    Raises:
        OptimizeError: the artefact lacks what exporting needs, or the recipe is another's.
    """
    module = {v: k for k, v in TASK_NAMES.items()}[recipe.task]
    try:
        found = importlib.import_module(f"optimize.export.subjects.{module}")
    except ModuleNotFoundError as error:
        raise ModelError(f"nothing is known of exporting {recipe.task}") from error
    return found.load(recipe, folder, report)  # type: ignore[no-any-return]
