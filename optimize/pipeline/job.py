"""One run of a recipe: what was asked, of which task, on which data, into which folder."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from optimize.errors import BudgetMissed
from optimize.recipe.schema import Recipe
from optimize.report import report
from optimize.tasks import registry
from optimize.tasks.base import A, D, Task
from optimize.training import distributed

Say = Callable[[str], None]
"""Told a line where a person should know of something."""


@dataclass(frozen=True)
class Job(Generic[D, A]):
    """A recipe with its task and data, and the artefact's folder.

    Attributes:
        resume: keep finished stages of an earlier run of the same recipe on the same data.
        say: told a line at each step.
    """

    recipe: Recipe
    task: Task[D, A]
    data: D
    folder: Path
    resume: bool = False
    say: Say = print

    def stages_digest(self, count: int) -> str:
        """Of everything that decides the result of the first `count` stages."""
        return f"{self.recipe.digest(count)}:{self.data.fingerprint()}"

    def digest(self) -> str:
        """Of everything that decides the artefact; it starts with the last stage's digest."""
        return self.stages_digest(len(self.recipe.stages)) + self.recipe.digest()

    def is_finished(self) -> bool:
        """Whether the folder holds the artefact already, and is to be kept."""
        return distributed.agreed(self.resume and report.is_current(self.folder, self.digest()))  # type: ignore[no-any-return]


def begin(recipe: Recipe, output: Path | None, *, resume: bool, say: Say) -> "Job[D, A]":
    """Load the recipe's task and data.

    Args:
        recipe: a checked recipe.
        output: the artefact's folder; `artifacts/NAME` by default.
        resume, say: see `Job`; of several processes only the first one speaks.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: there is no such data set or option.
    """
    say = say if distributed.leads() else _silent
    task = registry.load(recipe.task)
    data = task.load_data(recipe)
    say(f"data: {data.name}, {data.source}, {data.count('test')} test samples")
    for note in data.notes:
        say(f"note: {note}")
    return Job(recipe, task, data, output or Path("artifacts") / recipe.name, resume, say)


def gate(job: Job[D, A]) -> None:
    """Print the report's main lines.

    Raises:
        BudgetMissed: the gate failed; the artefact is complete and kept.
    """
    if not distributed.leads():
        return
    evidence = report.read(job.folder)
    for line in report.summary(evidence):
        job.say(line)
    if not evidence["gate"]["passed"]:
        raise BudgetMissed(
            f"{job.folder}: {evidence['gate']['reason']}; the artefact is kept, and build_mar.sh "
            "takes it only with --force. Raise budget.max_drop or compress less"
        )


def _silent(line: str) -> None:
    """What processes other than the first say."""
