"""Runs a recipe's stages in order, or loads those that an earlier run finished."""

import dataclasses
import shutil
import time
from pathlib import Path

import torch
from torch import nn

from optimize.errors import OptionError, RecipeError
from optimize.models.answers import check_answers, fresh_statistics
from optimize.models.notes import notes_of
from optimize.models.sources import torchscript
from optimize.pipeline.failure import explained
from optimize.pipeline.finished import Finished
from optimize.pipeline.job import Job
from optimize.pipeline.outputs import check_outputs, outputs_of
from optimize.quantization.quantize import refuse_quantized
from optimize.recipe.schema import StageSpec
from optimize.tasks.base import A, Context, D, Memory, State, Task
from optimize.training import distributed
from optimize.utils.signatures import Untrusted


def build(job: Job[D, A]) -> State:
    """The state before the first stage: the recipe's model."""
    torch.manual_seed(job.recipe.seed)
    name = job.recipe.model.name
    with explained(f"building model {name}"):
        model = job.task.build_model(job.recipe, job.data).eval()
        check_answers(model, job.task.calls(job.data, 3)[0], name)
        if job.recipe.checkpoint is not None:
            for note in fresh_statistics(model):
                job.say(f"warning: {note}")
    for line in notes_of(model):
        job.say(f"note: {line}")
    return State.of(model)


def run_stages(
    job: Job[D, A],
    folder: Path,
    *,
    initial: list[State] | None = None,
    memory: Memory | None = None,
) -> list[State]:
    """Run every stage, or load it if an earlier run finished it with the same inputs.

    The seed of a stage depends on its position, so that a resumed run gives the same result as an
    uninterrupted one.

    Args:
        job: what to run.
        folder: of the finished stages.
        initial: states before and after the first stages, if these have run already.
        memory: shared with other runs on the same first stages.

    Returns:
        The state after building the model and after each stage.
    """
    leads, recipe = distributed.leads(), job.recipe
    states = list(initial or [build(job)])
    done, memory = len(states) - 1, memory or Memory()
    if leads and not job.resume and folder.exists():
        shutil.rmtree(folder)
    for number, spec in enumerate(recipe.stages):
        if number < done:
            continue
        finished = Finished(folder / f"{number:02d}-{spec.name}")
        digest = job.stages_digest(number + 1)
        before = states[-1] if number > done else None  # saved in `folder` too
        if distributed.agreed(job.resume and finished.matches(digest)):
            loaded = distributed.agreed(_load(finished, states[-1]) if leads else None)
            if isinstance(loaded, State):
                states.append(loaded)
                job.say(f"  {spec.name}: finished before, kept")
                continue
            job.say(f"  {spec.name}: {loaded}, it runs again")
        start = time.monotonic()
        context = Context(
            recipe,
            job.data,
            recipe.seed * 1000 + number,
            f"{number + 1}/{len(recipe.stages)} {spec.name}",
            memory,
            scratch=folder / f"{number:02d}-{spec.name}.unfinished",
            digest=digest,
            say=job.say,
        )
        state = _run_stage(job.task, spec, states[-1], context)
        seconds = time.monotonic() - start
        if leads:
            finished.save_state(state, before, digest, seconds, job.stages_digest(number))
        states.append(state)
        job.say(f"  {spec.name}: {seconds:.0f} s")
    for leftover in folder.glob("*.unfinished") if leads else []:
        shutil.rmtree(leftover, ignore_errors=True)
    return states


def _load(finished: Finished, before: State) -> State | str:
    """The state that a finished stage left, or why it cannot be used."""
    try:
        return finished.load_state(before)
    except Untrusted as error:
        return f"what was kept of it is not used: {error}"
    except Exception:  # a pickle can raise anything
        return "what was kept of it is damaged"


def _run_stage(task: Task[D, A], spec: StageSpec, state: State, context: Context[D]) -> State:
    torchscript.refuse(state.model, spec.kind)
    refuse_quantized(state.model, spec.kind)
    torch.manual_seed(context.seed)
    state = dataclasses.replace(state, details={})
    call = task.calls(context.data, 2)[0]
    with explained(f"stage {spec.name}", _advice(spec)):
        _use_engine(state)
        before = outputs_of(state.model, call)
        try:
            after = task.stages[spec.kind].run(state, spec.options, context)
        except OptionError as error:  # valid in the recipe, but not for this model or data
            raise RecipeError(f"{spec.kind}: {error}", *spec.where) from error
        _use_engine(after)
        check_outputs(after.model, call, before, spec.name)
    # `Memory` goes by identity: in every process the original stays the object that it was.
    kept = after.original is state.original and after.model is not after.original
    shared: State = distributed.agreed(after)
    return dataclasses.replace(shared, original=state.original) if kept else shared


def _use_engine(state: State) -> None:
    if state.engine:
        torch.backends.quantized.engine = state.engine


def _advice(spec: StageSpec) -> str:
    """What to do where a stage fails."""
    leave_out = "leave out this stage"
    return (
        f"keep: [{{layer}}] leaves that layer as it is; or {leave_out}"
        if hasattr(spec.options, "keep")
        else leave_out
    )


def run_controls(job: Job[D, A], final: State, folder: Path) -> dict[str, nn.Module]:
    """The report's controls, trained once and saved like a stage."""
    if not job.recipe.controls:
        return {}
    finished = Finished(folder / "controls")
    digest = job.stages_digest(len(job.recipe.stages))
    if distributed.agreed(job.resume and finished.matches(digest)):
        kept = distributed.agreed(_load_controls(finished) if distributed.leads() else None)
        if not isinstance(kept, str):
            return kept if distributed.leads() else {}
        job.say(f"  controls: {kept}, they are trained again")
    start = time.monotonic()
    with explained("training the controls", "leave out controls"):
        controls = job.task.controls(job.recipe, job.data, final.float_model)
    if distributed.leads():
        finished.save(controls, digest, time.monotonic() - start)
    return controls


def _load_controls(finished: Finished) -> dict[str, nn.Module] | str:
    """The controls that an earlier run trained, or why they cannot be used."""
    try:
        return finished.load()
    except Untrusted as error:
        return f"what was kept of them is not used: {error}"
    except Exception:  # a pickle can raise anything
        return "what was kept of them is damaged"
