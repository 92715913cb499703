"""One run of a recipe: its task, data and output folder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Generic

from optimize.errors import BudgetMissed, RecipeError
from optimize.models.sources import dependencies
from optimize.recipe.schema import Recipe
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
    if task.metric(data).most == 1 and recipe.budget.max_drop >= 1:
        raise RecipeError("budget: max_drop is a share: 0.01 is one point", *recipe.budget.where)
    say(f"data: {data.name}, {data.source}, {data.count('test')} test samples")
    for note in data.notes:
        say(f"note: {note}")
    return Job(recipe, task, data, output or Path("artifacts") / recipe.name, resume, say)


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
            "takes it only with --force. Raise budget.max_drop or compress less"
        )


def _silent(line: str) -> None:
    """Print nothing, in processes other than the first."""
