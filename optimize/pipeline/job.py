"""One run of a recipe: its task, data and output folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic

from optimize.errors import BudgetMissed, RecipeError
from optimize.evaluation.metrics import Metric
from optimize.models.sources import dependencies
from optimize.recipe.schema import Budget, Recipe
from optimize.report import report
from optimize.tasks import registry
from optimize.tasks.base import A, D, Task
from optimize.training import distributed
from optimize.utils import distribution

Say = Callable[[str], None]
"""Called with a line to print."""


@dataclass(frozen=True)
class Job(Generic[D, A]):
    """A recipe with its task and data, and the artifact's folder.

    Attributes:
        resume: reuse finished stages of an earlier run of the same recipe on the same data.
        say: called with a line at each step.
    """

    recipe: Recipe
    task: Task[D, A]
    data: D
    folder: Path
    resume: bool = False
    say: Say = print

    @cached_property
    def fingerprint(self) -> str:
        """The data's; it takes a pass over all samples."""
        return self.data.fingerprint()

    @cached_property
    def origins(self) -> list[str]:
        """Digests of the files that the model, with the first 0, 1, ... stages, is made from,
        and of this program: as they were at the start of the run."""
        recipe, found = self.recipe, self.task.origins(self.recipe, self.data)
        digests = []
        for stage in (None, *recipe.stages):
            for spec in dependencies.named(stage.options) if stage is not None else []:
                found = [*found, *dependencies.named_files(spec, recipe.folder)]
            digests.append(f"{dependencies.digest(found)[:32]}{distribution.fingerprint()[:32]}")
        return digests

    def stages_digest(self, count: int) -> str:
        """Digest of everything that affects the result of the first `count` stages."""
        return f"{self.recipe.digest(count)}:{self.fingerprint}:{self.origins[count]}"

    def digest(self) -> str:
        """Digest of everything that affects the artifact; starts with the last stage's digest."""
        return self.stages_digest(len(self.recipe.stages)) + self.recipe.digest()

    def is_finished(self) -> bool:
        """Whether to keep the folder, because it holds this artifact already."""
        return distributed.agreed(self.resume and report.is_current(self.folder, self.digest()))  # type: ignore[no-any-return]


def begin(recipe: Recipe, output: Path | None, *, resume: bool, say: Say) -> "Job[D, A]":
    """Load the recipe's task and data.

    Args:
        recipe: a checked recipe.
        output: the artifact's folder; `artifacts/NAME` by default.
        resume, say: see `Job`; of several processes only the first one prints.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: there is no such data set or option.
    """
    say = say if distributed.leads() else _silent
    task = registry.load(recipe.task)
    data = task.load_data(recipe)
    _check_budget(recipe.budget, task.metric(data))
    say(f"data: {data.name}, {data.source}, {data.count('test')} test samples")
    for note in data.notes:
        say(f"note: {note}")
    if _is_untrained(recipe, task):
        say(
            f"warning: model {recipe.model.name} has random weights and no stage trains it, so its "
            "accuracy means nothing: name its weights with `checkpoint: FILE`, begin with a "
            "`train` stage, or say `random_weights: true` if only size and speed matter"
        )
    return Job(recipe, task, data, folder_of(recipe, output), resume, say)


def _check_budget(budget: Budget, metric: Metric) -> None:
    if metric.most == 1 and budget.max_drop >= 1:
        raise RecipeError("budget: max_drop is a share: 0.01 is one point", *budget.where)
    if budget.floor is not None and not metric.holds(budget.floor):
        raise RecipeError(
            f"budget: floor is a value of {metric.name}, from {metric.least} to {metric.most}, "
            f"not {budget.floor}",
            *budget.where,
        )


def _is_untrained(recipe: Recipe, task: Task[D, A]) -> bool:
    """Whether the recipe compresses what nobody has trained, and does not say that it is meant."""
    trained = any(stage.kind == "train" for stage in recipe.stages)
    return not trained and not recipe.random_weights and task.has_random_weights(recipe)


def folder_of(recipe: Recipe, output: Path | None) -> Path:
    """The artifact's folder: `output`, by default `artifacts/NAME`."""
    return output or Path("artifacts") / recipe.name


def gate(job: Job[D, A]) -> None:
    """Print the report's main lines.

    Raises:
        BudgetMissed: the gate failed; the artifact is complete and stays.
    """
    if not distributed.leads():
        return
    evidence = report.read(job.folder)
    for line in report.summary(evidence):
        job.say(line)
    if not evidence["gate"]["passed"]:
        raise BudgetMissed(
            f"{job.folder}: {evidence['gate']['reason']}; the artifact is kept, and build_mar.sh "
            f"takes it only with --force. {_first(evidence['gate'].get('advice', []))}"
        )


def _first(advice: list[str]) -> str:
    """Advice as the end of a message."""
    if not advice:
        return "Raise the budget or compress less"
    return "What to try first: " + "; ".join(advice)


def _silent(line: str) -> None:
    """Print nothing, in processes other than the first."""
