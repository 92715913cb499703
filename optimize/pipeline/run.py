"""From a recipe to an artefact: run the stages, resume, save, check, report, gate."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import BudgetMissed, OptionError, RecipeError
from optimize.models.sources import torchscript
from optimize.pipeline import artifact
from optimize.recipe.schema import Recipe, StageSpec
from optimize.report import report
from optimize.tasks import registry
from optimize.tasks.base import Context, State, Task
from optimize.training import distributed
from optimize.utils import files, pickles

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Finished:
    """One finished stage on disk: `state.pt`, and `stage.json` with the digest it belongs to."""

    folder: Path

    def matches(self, digest: str) -> bool:
        try:
            found = json.loads((self.folder / "stage.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found.get("digest") == digest)

    def load(self) -> Any:
        return pickles.load(self.folder / "state.pt")

    def save(self, value: Any, digest: str, seconds: float) -> None:
        with files.replacing(self.folder) as aside:
            aside.mkdir(parents=True)
            pickles.save(value, aside / "state.pt")
            files.write_json(aside / "stage.json", {"digest": digest, "seconds": round(seconds, 1)})


def _digest(recipe: Recipe, count: int, fingerprint: str) -> str:
    return f"{recipe.digest(count)}:{fingerprint}"


def run_stages(
    recipe: Recipe,
    task: Task,
    dataset: Dataset,
    folder: Path,
    *,
    resume: bool,
    say: Say,
    begun: list[State] | None = None,
) -> list[State]:
    """Run every stage, or load it if it was finished before with the same inputs.

    Every stage is seeded by its own position, so that a run continued after any stage ends as
    an uninterrupted one does. `begun` are the states of the first stages, where they ran already.

    Returns:
        The state after building the model and after each stage.
    """
    leads = distributed.leads()
    fingerprint = dataset.fingerprint()
    if begun is None:
        torch.manual_seed(recipe.seed)
        model = task.build_model(recipe.model, dataset, recipe.folder, recipe.checkpoint).eval()
        begun = [State(model, model, model)]
    states = list(begun)
    if leads and not resume and folder.exists():
        shutil.rmtree(folder)
    for number, spec in enumerate(recipe.stages):
        if number < len(begun) - 1:
            continue
        kept = _Finished(folder / f"{number:02d}-{spec.name}")
        digest = _digest(recipe, number + 1, fingerprint)
        if distributed.agreed(resume and kept.matches(digest)):
            state = distributed.agreed(kept.load() if leads else None)
            states.append(dataclasses.replace(state, training=states[-1].training))
            say(f"  {spec.name}: finished before, kept")
            continue
        start = time.monotonic()
        context = Context(
            dataset,
            recipe.folder,
            recipe.seed * 1000 + number,
            f"{number + 1}/{len(recipe.stages)} {spec.name}",
            scratch=folder / f"{number:02d}-{spec.name}.unfinished",
            digest=digest,
            say=say,
        )
        state = _run_stage(task, spec, states[-1], context)
        seconds = time.monotonic() - start
        if leads:
            kept.save(dataclasses.replace(state, training=None), digest, seconds)
        states.append(state)
        say(f"  {spec.name}: {seconds:.0f} s")
    for leftover in folder.glob("*.unfinished") if leads else []:
        shutil.rmtree(leftover, ignore_errors=True)
    return states


def _run_stage(task: Task, spec: StageSpec, state: State, context: Context) -> State:
    torchscript.refuse(state.model, spec.kind)
    torch.manual_seed(context.seed)
    state = dataclasses.replace(state, details={})
    try:
        found = task.STAGES[spec.kind].run(state, spec.options, context)
    except OptionError as error:  # an option that fits the recipe, and not this model or data
        raise RecipeError(f"{spec.kind}: {error}", *spec.where) from error
    return distributed.agreed(found)  # type: ignore[no-any-return]


def _controls(
    recipe: Recipe, task: Task, dataset: Dataset, final: State, folder: Path, resume: bool
) -> dict[str, nn.Module]:
    """The report's controls, trained once and kept like a stage."""
    kept = _Finished(folder / "controls")
    digest = _digest(recipe, len(recipe.stages), dataset.fingerprint())
    if distributed.agreed(resume and kept.matches(digest)):
        return kept.load() if distributed.leads() else {}
    start = time.monotonic()
    found = task.controls(recipe, dataset, final.float_model)
    if distributed.leads():
        kept.save(found, digest, time.monotonic() - start)
    return found


def run(
    recipe: Recipe, output: Path | None = None, *, resume: bool = False, say: Say = print
) -> Path:
    """Run a recipe from data to a gated artefact.

    Args:
        recipe: a checked recipe.
        output: the artefact's folder; `artifacts/NAME` by default.
        resume: keep finished stages of an earlier run of the same recipe on the same data.
        say: told a line at each step.

    Returns:
        The artefact's folder.

    Raises:
        BudgetMissed: the gate failed; the artefact is complete and kept.
        OptimizeError: anything else the user can mend.
    """
    folder = output or Path("artifacts") / recipe.name
    task = registry.load(recipe.task)
    leads = distributed.leads()
    say = say if leads else _silent
    run_itself = getattr(task, "run", None)
    if recipe.search is not None and (run_itself is not None or distributed.world() > 1):
        why = f"{recipe.task} has no search" if run_itself else "it runs in one process"
        hint = "leave search out" if run_itself else "share a study through search.storage"
        raise RecipeError(f"search: {why}; {hint}", recipe.file)
    if run_itself is not None:  # a task whose data fits in no tensor
        if not leads:
            return folder
        run_itself(recipe, folder, resume=resume, say=say)
        return _gate(folder, say)
    dataset = task.load_data(recipe.data, recipe.folder, recipe.seed)
    say(f"data: {dataset.name}, {dataset.source}, {len(dataset.test)} test samples")
    for note in dataset.notes:
        say(f"note: {note}")
    digest = _digest(recipe, len(recipe.stages), dataset.fingerprint()) + recipe.digest()
    if distributed.agreed(resume and report.is_current(folder, digest)):
        say(f"{folder} is finished and up to date")
        return _gate(folder, say) if leads else folder
    if recipe.search is not None:
        from optimize.search import search

        search.run(recipe, task, dataset, folder, digest=digest, resume=resume, say=say)
        return _gate(folder, say)
    states = run_stages(recipe, task, dataset, folder / "stages", resume=resume, say=say)
    controls = {}
    if recipe.controls:
        controls = _controls(recipe, task, dataset, states[-1], folder / "stages", resume)
    if not leads:
        return folder
    scratch = folder / "stages"
    artifact.prepare(
        recipe, task, dataset, states, scratch, digest=digest, controls=controls, say=say
    )
    artifact.install(scratch, folder)
    return _gate(folder, say)


def _silent(line: str) -> None:
    """What processes other than the first say."""


def _gate(folder: Path, say: Say) -> Path:
    """Print the report's main lines; raise if its gate failed."""
    evidence = report.read(folder)
    for line in report.summary(evidence):
        say(line)
    if not evidence["gate"]["passed"]:
        raise BudgetMissed(
            f"{folder}: {evidence['gate']['reason']}; the artefact is kept, and build_mar.sh "
            "takes it only with --force. Raise budget.max_drop or compress less"
        )
    return folder
