"""From finished stages to an artefact: save, reload, measure, write, install in one go."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from optimize.data.dataset import Sample
from optimize.errors import ParityError
from optimize.evaluation import latency
from optimize.pipeline.job import Job
from optimize.recipe.schema import Recipe
from optimize.report import page, report
from optimize.tasks.base import A, D, Inputs, State
from optimize.utils import files, pickles, torchscript

PARITY_BATCHES = (1, 2, 5, 8)
LATENCY_BATCHES = (1, 8)
_INSTALLED_LAST = ("model.pt", "model.json", "report.html", "report.json")


def script(state: State, example: Inputs) -> torch.jit.ScriptModule:
    """The state's model as TorchScript, with the quantized engine it needs."""
    if state.engine:
        torch.backends.quantized.engine = state.engine
    return torchscript.script(state.model, example)


def prepare(
    job: Job[D, A],
    states: list[State],
    scratch: Path,
    *,
    digest: str | None = None,
    controls: dict[str, nn.Module] | None = None,
    search: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Save the final model, measure everything on the test split and write the artefact aside.

    Args:
        job: what was asked.
        states: as `run_stages` returns them.
        scratch: a folder for the files; the artefact is made in its subfolder `ready`.
        digest: of everything that decides the result; the job's by default.
        controls: float models to compare with, by name.
        search: the report's account of a search, where there was one.

    Returns:
        The report.

    Raises:
        ModelError: the model cannot be saved as TorchScript.
        ParityError: the saved file answers otherwise than the model.
    """
    task, data, final = job.task, job.data, states[-1]
    ready, timed = scratch / "ready", scratch / "timed"
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir(parents=True)
    model_file = ready / "model.pt"
    torchscript.save(script(final, task.calls(data, 1)[0]), model_file)
    calls = [task.calls(data, batch)[0] for batch in PARITY_BATCHES]
    parity = torchscript.check_parity(final.model, model_file, calls, engine=final.engine)
    job.say(f"  saved and reloaded in a fresh process: relative error {parity:.1g}")

    named = _named_states(job.recipe, states)
    rows: dict[str, dict[str, Any]] = {}
    split, reference = data.agreement_split, None
    for number, (name, state) in enumerate(named.items()):
        answers = task.predict(state.model, data, "test", name)
        compared = answers if split == "test" else task.predict(state.model, data, split, name)
        reference = compared if reference is None else reference
        rows[name] = {
            **_measure(job, state, answers, timed / str(number)),
            "agreement": task.agreement(compared, reference),
            "agreement_samples": data.count(split),
            **({"details": state.details} if state.details else {}),
        }
    _check_answers(job, answers, model_file)
    # The last stage is the final model.
    rows["final"] = {key: value for key, value in rows[name].items() if key != "details"}
    control_rows = [
        {"name": name, **task.score(task.predict(model, data, "test", name), data, "test")}
        for name, model in (controls or {}).items()
    ]
    job.say("  measuring latency: original (eager fp32), every stage and final by turns")
    _time(job, named, rows, scratch, model_file)
    shutil.rmtree(timed)
    evidence = report.build(
        job.recipe, data, task.metric(data), rows, control_rows, parity, digest or job.digest()
    )
    if search is not None:
        evidence["search"] = search
    _write_samples(ready / "samples", task.samples(data, answers))
    _write_card(job, final, ready)
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
    extra = sorted(p.name for p in ready.iterdir() if p.is_file() and p.name not in _INSTALLED_LAST)
    for name in (*extra, *_INSTALLED_LAST):
        if (ready / name).exists():
            (ready / name).replace(folder / name)
    shutil.rmtree(ready)


def recover(scratch: Path, folder: Path) -> None:
    """Finish an `install` that was killed: the report moves last, so it is still aside."""
    complete = (scratch / "ready" / "report.json").is_file()
    if complete and not (folder / "report.json").is_file():
        install(scratch, folder)


def save_calls(job: Job[D, A], batches: tuple[int, ...], path: Path) -> None:
    """Real held-out inputs for `latency.measure`: calls by the batch size they have."""
    torch.save({f"batch{batch}": job.task.calls(job.data, batch) for batch in batches}, path)


def _named_states(recipe: Recipe, states: list[State]) -> dict[str, State]:
    """The original and every stage after it, in the report's order."""
    trained = [i for i, spec in enumerate(recipe.stages, 1) if spec.kind == "train"]
    original = trained[0] if trained else 0
    named = {"original": states[original]}
    for number, spec in enumerate(recipe.stages, 1):
        if number > original:
            named[f"stage:{spec.name}"] = states[number]
    return named


def _measure(job: Job[D, A], state: State, answers: A, place: Path) -> dict[str, Any]:
    """Score, cost and size of one model; leaves its file in the folder `place`."""
    scripted = script(state, job.task.calls(job.data, 1)[0])
    return {
        **job.task.score(answers, job.data, "test"),
        **job.task.cost(state, job.data, answers),
        # Of one name for all, as the records in the file hold it.
        "bytes": torchscript.save(scripted, place / "model.pt"),
    }


def _check_answers(job: Job[D, A], answers: A, file: Path) -> None:
    """Refuse a file that, over the whole test split, answers otherwise than the model.

    Tracing keeps the one path that the example took: a model that chooses its path by its
    input differs on some inputs only.
    """
    loaded = torchscript.load(file)
    same = job.task.agreement(job.task.predict(loaded, job.data, "test", "saved file"), answers)
    if same < 1 - max(0.001, 1.5 / job.data.count("test")):
        raise ParityError(
            f"the saved file answers otherwise than the model on {1 - same:.1%} of the test "
            "split: the model's path depends on its input (control flow), and tracing keeps one "
            "path. Write the choice with torch.where, or without it"
        )


def _time(
    job: Job[D, A],
    named: dict[str, State],
    rows: dict[str, dict[str, Any]],
    scratch: Path,
    model_file: Path,
) -> None:
    """Latency of the original (eager float32), every stage and the final file, by turns."""
    eager_file, calls_file = scratch / "original.eager.pt", scratch / "calls.pt"
    original, final = named["original"].original, list(named.values())[-1]
    pickles.save(original, eager_file)
    save_calls(job, LATENCY_BATCHES, calls_file)
    contestants = {"original": latency.Contestant(eager_file, eager=True)}
    for number, (name, state) in enumerate(list(named.items())[1:-1], 1):
        file = scratch / "timed" / str(number) / "model.pt"
        contestants[name] = latency.Contestant(file, engine=state.engine)
    contestants["final"] = latency.Contestant(model_file, engine=final.engine)
    for name, measured in latency.measure(contestants, calls_file).items():
        rows[name]["latency_ms"] = measured
    rows[list(named)[-1]].setdefault("latency_ms", rows["final"]["latency_ms"])


def _write_card(job: Job[D, A], final: State, folder: Path) -> None:
    """The model card, see docs/architecture.md, and the files that it names."""
    recipe, serving = job.recipe, job.recipe.serving
    own = job.task.card(recipe, job.data)
    extra = job.task.files(recipe, job.data)
    for name, source in extra.items():
        shutil.copyfile(source, folder / name)
    card = {
        "name": recipe.name,
        "task": recipe.task,
        **own,
        "model": {
            "file": "model.pt",
            "quantized_engine": final.engine,
            "threads": serving.threads,
            "batch_sizes": serving.warm_up(),
            **own.get("model", {}),
        },
        "serving": {
            "workers": serving.workers,
            "batch_size": serving.batch_size,
            "max_batch_delay_ms": serving.max_batch_delay_ms,
            "response_timeout_s": serving.response_timeout_s,
        },
        "files": sorted(extra),
    }
    files.write_json(folder / "model.json", card)


def _write_samples(folder: Path, samples: list[Sample]) -> None:
    """Real encoded test inputs with their labels, for the live check after deployment."""
    if not samples:
        return
    with files.replacing(folder) as aside:
        aside.mkdir(parents=True)
        for sample in samples:
            (aside / sample.file).write_bytes(sample.content)
        files.write_json(aside / "labels.json", {s.file: s.label for s in samples})
