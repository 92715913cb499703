"""The main job: a recipe becomes a gated artifact, by search where the recipe asks for one."""

from pathlib import Path
from typing import Any

from optimize.errors import RecipeError
from optimize.pipeline import artifact
from optimize.pipeline import run as pipeline
from optimize.pipeline.job import Job, Say, begin, gate
from optimize.recipe.schema import Recipe
from optimize.training import distributed


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
        OptimizeError: anything else the user can mend.
    """
    if recipe.search is not None and distributed.world() > 1:
        raise RecipeError(
            "search: it runs in one process; share a study through search.storage", recipe.file
        )
    job: Job[Any, Any] = begin(recipe, output, resume=resume, say=say)
    if resume and distributed.leads():
        for scratch in ("stages", "search"):
            artifact.recover(job.folder / scratch, job.folder)
    if job.is_finished():
        job.say(f"{job.folder} is finished and up to date")
    elif recipe.search is not None:
        from optimize.search import search  # brings Optuna

        search.run(job)
    else:
        pipeline.run(job)
    gate(job)
    return job.folder
