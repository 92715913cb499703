"""From finished stages to an artefact: save, reload, measure, write, install in one go."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optimize.data.dataset import Dataset
from optimize.errors import ParityError
from optimize.evaluation import latency
from optimize.evaluation.cost import macs, parameters
from optimize.recipe.schema import Recipe
from optimize.report import page, report
from optimize.tasks.base import State, Task
from optimize.utils import files, pickles, torchscript

Say = Callable[[str], None]


def script(state: State, example: torch.Tensor) -> torch.jit.ScriptModule:
    """The state's model as TorchScript, with the quantized engine it needs."""
    if state.engine:
        torch.backends.quantized.engine = state.engine
    return torchscript.script(state.model, example)


def prepare(
    recipe: Recipe,
    task: Task,
    dataset: Dataset,
    states: list[State],
    scratch: Path,
    *,
    digest: str,
    controls: dict[str, nn.Module] | None = None,
    search: dict[str, Any] | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Save the final model, measure everything on the test split and write the artefact aside.

    Args:
        recipe, task, dataset: what was asked, and on which data.
        states: as `run_stages` returns them.
        scratch: a folder for the files; the artefact is made in its subfolder `ready`.
        digest: of everything that decides the result.
        controls: float models to compare with, by name.
        search: the report's account of a search, where there was one.
        say: told a line at each step.

    Returns:
        The report.

    Raises:
        ModelError: the model cannot be saved as TorchScript.
        ParityError: the saved file answers otherwise than the model.
    """
    final, example = states[-1], task.example(dataset)
    ready = scratch / "ready"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir(parents=True)
    model_file = ready / "model.pt"
    torchscript.save(script(final, example), model_file)
    inputs = dataset.test.inputs[:16]
    parity = torchscript.check_parity(final.model, model_file, inputs, engine=final.engine)
    say(f"  saved and reloaded in a fresh process: relative error {parity:.1g}")

    named = _named_states(recipe, states)
    split = "test" if dataset.agreement is None else "agreement"
    reference = task.predict(named["original"].model, dataset, split, "original")
    timed = scratch / "timed"
    measured = {
        name: _measure(task, dataset, state, split, reference, timed / str(number), name)
        for number, (name, state) in enumerate(named.items())
    }
    _check_answers(task, dataset, final, model_file)
    # The last stage is the final model.
    measured["final"] = dict(list(measured.values())[-1])
    measured["final"].pop("details", None)
    control_rows = [
        {"name": name, **task.score(task.predict(model, dataset, "test", name), dataset, "test")}
        for name, model in (controls or {}).items()
    ]
    eager_file, inputs_file = scratch / "original.eager.pt", scratch / "inputs.pt"
    pickles.save(states[-1].original, eager_file)
    torch.save(inputs, inputs_file)
    say("  measuring latency: original (eager fp32), every stage and final by turns")
    contestants = {"original": latency.Contestant(eager_file, eager=True)}
    for number, (name, state) in enumerate(list(named.items())[1:-1], 1):
        file = timed / str(number) / "model.pt"
        contestants[name] = latency.Contestant(file, engine=state.engine)
    contestants["final"] = latency.Contestant(model_file, engine=final.engine)
    for name, found in latency.measure(contestants, inputs_file).items():
        measured[name]["latency_ms"] = found
    last = list(named)[-1]
    measured[last].setdefault("latency_ms", measured["final"]["latency_ms"])
    shutil.rmtree(timed)
    evidence = report.build(recipe, dataset, measured, control_rows, parity, digest)
    if search is not None:
        evidence["search"] = search
    _write_samples(ready / "samples", dataset)
    extra_files = getattr(task, "extra_files", None)  # what a handler needs beside the model
    extra = extra_files(dataset, ready) if extra_files else []
    files.write_json(ready / "model.json", {**_card(recipe, task, dataset, final), "files": extra})
    page.write(ready, evidence)
    files.write_json(ready / "report.json", evidence)
    return evidence


def install(scratch: Path, folder: Path) -> None:
    """Put what `prepare` made into the artefact's folder, the report last.

    Killed on the way, the folder has no report, and `recover` goes on from `scratch`.
    """
    ready = scratch / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    if (ready / "samples").is_dir():
        shutil.rmtree(folder / "samples", ignore_errors=True)
        (ready / "samples").replace(folder / "samples")
    # An artefact with a report is complete: so it goes first and comes last.
    (folder / "report.json").unlink(missing_ok=True)
    last = ("model.pt", "model.json", "report.html", "report.json")
    extra = sorted(p.name for p in ready.iterdir() if p.is_file() and p.name not in last)
    for name in (*extra, *last):
        if (ready / name).exists():
            (ready / name).replace(folder / name)
    shutil.rmtree(ready)


def recover(scratch: Path, folder: Path) -> None:
    """Finish an `install` that was killed: the report moves last, so it is still aside."""
    complete = (scratch / "ready" / "report.json").is_file()
    if complete and not (folder / "report.json").is_file():
        install(scratch, folder)


def _check_answers(task: Task, dataset: Dataset, final: State, file: Path) -> None:
    """Refuse a file that, over the whole test split, answers otherwise than the model.

    Tracing keeps the one path that the example took: a model that chooses its path by its
    input differs on some inputs only.
    """
    loaded = torchscript.load(file)
    ours = task.predict(final.model, dataset, "test", "model")
    theirs = task.predict(loaded, dataset, "test", "saved file")
    same = task.agreement(theirs, ours)
    if same < 1 - max(0.001, 1.5 / len(ours)):
        raise ParityError(
            f"the saved file answers otherwise than the model on {1 - same:.1%} of the test "
            "split: the model's path depends on its input (control flow), and tracing keeps one "
            "path. Write the choice with torch.where, or without it"
        )


def _card(recipe: Recipe, task: Task, dataset: Dataset, final: State) -> dict[str, Any]:
    """The model card, see docs/architecture.md."""
    return {
        "name": recipe.name,
        "task": recipe.task,
        **task.card(recipe, dataset),
        "model": {
            "file": "model.pt",
            "quantized_engine": final.engine,
            "threads": recipe.serving.threads,
            "batch_sizes": recipe.serving.warm_up(),
        },
        "serving": {
            "workers": recipe.serving.workers,
            "batch_size": recipe.serving.batch_size,
            "max_batch_delay_ms": recipe.serving.max_batch_delay_ms,
            "response_timeout_s": recipe.serving.response_timeout_s,
        },
    }


def _named_states(recipe: Recipe, states: list[State]) -> dict[str, State]:
    """The original and every stage after it, in the report's order."""
    trained = [i for i, spec in enumerate(recipe.stages, 1) if spec.kind == "train"]
    original = trained[0] if trained else 0
    named = {"original": states[original]}
    for number, spec in enumerate(recipe.stages, 1):
        if number > original:
            named[f"stage:{spec.name}"] = states[number]
    return named


def _measure(
    task: Task,
    dataset: Dataset,
    state: State,
    split: str,
    reference: torch.Tensor,
    place: Path,
    title: str,
) -> dict[str, Any]:
    """What the report says of one model, latency aside; agreement is with `reference`.

    Leaves the model's file in the folder `place`.
    """
    example = task.example(dataset)
    scripted = script(state, example)
    answers = task.predict(state.model, dataset, "test", title)
    compared = answers if split == "test" else task.predict(state.model, dataset, split, title)
    # Of one name for all, as the records in the file hold it.
    size = torchscript.save(scripted, place / "model.pt")
    return {
        **task.score(answers, dataset, "test"),
        "parameters": parameters(state.float_model),
        "macs": macs(state.float_model, example),
        "bytes": size,
        "agreement": task.agreement(compared, reference),
        "agreement_samples": len(compared),
        **({"details": state.details} if state.details else {}),
    }


def _write_samples(folder: Path, dataset: Dataset) -> None:
    """Real encoded test inputs with their labels, for the live check after deployment."""
    if not dataset.samples:
        return
    with files.replacing(folder) as aside:
        aside.mkdir(parents=True)
        for name, content, _ in dataset.samples:
            (aside / name).write_bytes(content)
        labels = {name: label for name, _, label in dataset.samples}
        files.write_json(aside / "labels.json", labels)
