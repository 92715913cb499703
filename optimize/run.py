"""The main job: a recipe becomes a gated artifact, by search where the recipe asks for one."""

import contextlib
from pathlib import Path
from typing import Any

from handlers import sockets
from optimize.errors import FolderBusy, RecipeError, StorageError
from optimize.pipeline import artifact, lock
from optimize.pipeline import run as pipeline
from optimize.pipeline.job import Job, Say, begin, folder_of, gate
from optimize.recipe.schema import Recipe
from optimize.serving import engines
from optimize.training import distributed
from optimize.utils import files


def run(
    recipe: Recipe, output: Path | None = None, *, resume: bool = False, say: Say = print
) -> Path:
    """Run a recipe from data to a gated artifact.

    Args:
        recipe: a checked recipe, from `optimize.tasks.registry.read_recipe`.
        output: the artifact's folder; `artifacts/NAME` by default.
        resume: keep finished stages of an earlier run of the same recipe on the same data.
        say: called with a line at each step.

    Returns:
        The artifact's folder.

    Raises:
        BudgetMissed: the gate failed; the artifact is complete and kept.
        FolderBusy: another run is at work in the folder.
        OptimizeError: anything else the user can mend.
    """
    if recipe.search is not None and distributed.world() > 1:
        raise RecipeError(
            "search: it runs in one process; share a study through search.storage", recipe.file
        )
    folder = folder_of(recipe, output)
    sockets.shorten()  # for the workers of data sets, the user's among them
    with contextlib.ExitStack() as stack:
        refused = _lock(folder, stack)
        finished_there = resume and (folder / "report.json").is_file()
        # A finished artifact may lie where nobody may write: then there is nothing to do.
        if refused is not None and (isinstance(refused, FolderBusy) or not finished_there):
            raise refused
        job: Job[Any, Any] = begin(recipe, output, resume=resume, say=say)
        if resume and refused is None and distributed.leads():
            for scratch in ("stages", "search"):
                artifact.recover(folder / scratch, folder)
        if job.is_finished():
            job.say(f"{folder} is finished and up to date")
        elif refused is not None:
            raise refused
        elif recipe.search is not None:
            from optimize.search import search  # brings Optuna

            search.run(job)
        else:
            pipeline.run(job)
        if refused is None and distributed.leads():
            engines.settle(job)
        gate(job)
    return folder


def _lock(folder: Path, stack: contextlib.ExitStack) -> StorageError | None:
    """Keep other runs out until `stack` is closed, and remove what killed ones left half-written.

    Of several processes the first one locks for all; all return why it could not.
    """
    refused = None
    if distributed.leads():
        try:
            stack.enter_context(lock.held(folder))
            files.sweep(folder)
            files.sweep_private()
        except StorageError as error:
            refused = error
    agreed: StorageError | None = distributed.agreed(refused)
    return agreed
