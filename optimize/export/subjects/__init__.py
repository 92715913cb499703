"""The modules that each task exports: one Python module per task, with a function `load`."""

import importlib
from pathlib import Path
from typing import Any

from optimize.errors import ModelError
from optimize.export.subject import Exportable
from optimize.recipe.schema import Recipe
from optimize.tasks import registry


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """The modules of an artifact to export, and how to evaluate the files.

    Args:
        recipe: the one that made the artifact.
        folder: the artifact's.
        report: its report.

    Raises:
        ModelError: the task has no exporter.
        OptimizeError: the artifact lacks what exporting needs, or the recipe is another's.
    """
    exporter = registry.load(recipe.task).exporter
    if not exporter:
        raise ModelError(
            f"models of the task {recipe.task} cannot be exported: it names no exporter (see "
            "CONTRIBUTING.md)"
        )
    module = importlib.import_module(exporter)
    return module.load(recipe, folder, report)  # type: ignore[no-any-return]
