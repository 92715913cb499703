"""From finished stages to an artifact: save, reload, measure, write, install."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from handlers import binding
from optimize.data.dataset import Sample
from optimize.errors import ParityError
from optimize.evaluation import calibration, latency
from optimize.pipeline.job import Job
from optimize.recipe.schema import Recipe
from optimize.report import example_file, notice, page, preregistration, report, served
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
    """Save the final model, measure on the test split, and write the artifact to `scratch`.

    Args:
        job: the run.
        states: from `run_stages`.
        scratch: a folder for the files; the artifact is written to its subfolder `ready`.
        digest: of everything that affects the result; the job's by default.
        controls: float models to compare with, by name.
        search: the report's section on the search, if there was one.

    Returns:
        The report.

    Raises:
        ModelError: the model cannot be saved as TorchScript.
        ParityError: the saved file's answers differ from the model's.
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

    metric, budget = task.metric(data), job.recipe.budget
    asked = preregistration.protocol(
        job.recipe.task, metric, job.fingerprint, data.count("test"), budget
    )
    fixed = preregistration.fix(job.folder, asked)
    job.say(f"  budget fixed before the test split is measured: {fixed['digest'][:16]}")
    states_by_name = _named_states(job.recipe, states)
    rows, before, answers = _measure_all(job, states_by_name, timed)
    _check_answers(job, answers, model_file)
    control_rows = [
        {"name": name, **task.score(task.predict(model, data, "test", name), data, "test")}
        for name, model in (controls or {}).items()
    ]
    job.say("  measuring latency: original (eager fp32), every stage and final by turns")
    _time(job, states_by_name, rows, scratch, model_file)
    shutil.rmtree(timed)
    _write_samples(ready / "samples", task.samples(data, answers))
    card = _write_card(job, final, ready)
    evidence = report.build(
        job.recipe,
        data,
        metric,
        rows,
        control_rows,
        parity,
        digest or job.digest(),
        chance=task.chance(data),
        fixed=fixed,
    )
    if search is not None:
        evidence["search"] = search
    (ready / "NOTICE").write_text(notice.text(evidence, job.recipe), encoding="utf-8")
    served.add(evidence, task.from_files(ready, data, answers), budget)
    evidence |= {binding.CARD: binding.card_digest(card), binding.FILES: files.digests(ready)}
    evidence |= compared(job, before, answers, ready)
    page.write(ready, evidence)
    report.write(ready, evidence)
    return evidence


def compared(job: Job[D, A], before: A, after: A, folder: Path) -> dict[str, Any]:
    """The report's entries on single answers of both models; writes the examples' file."""
    task, data, found = job.task, job.data, {}
    sides = {"original": before, "final": after}
    sure = {name: task.confidence(answers, data) for name, answers in sides.items()}
    rows = {k: calibration.reliability(*v) for k, v in sure.items() if v is not None}
    if len(rows) == len(sides):
        found["reliability"] = rows
    most = job.recipe.report.examples
    shown = task.examples(before, after, data, most) if most else []
    entry = example_file.write(folder, shown)
    return found | ({"examples": entry} if entry else {})


def install(scratch: Path, folder: Path) -> None:
    """Move the files from `prepare` into the artifact's folder, the report last.

    If the process is killed meanwhile, the folder has no report, and `recover` finishes the move.
    """
    ready = scratch / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    if (ready / "samples").is_dir():
        shutil.rmtree(folder / "samples", ignore_errors=True)
        files.move(ready / "samples", folder / "samples")
    # An artifact with a report is complete, so the report is removed first and written last.
    (folder / "report.json").unlink(missing_ok=True)
    if "examples" not in report.read(ready):  # those of the former artifact
        (folder / example_file.NAME).unlink(missing_ok=True)
    extra = sorted(p.name for p in ready.iterdir() if p.is_file() and p.name not in _INSTALLED_LAST)
    for name in (*extra, *_INSTALLED_LAST):
        if (ready / name).exists():
            files.move(ready / name, folder / name)
    shutil.rmtree(ready)


def recover(scratch: Path, folder: Path) -> None:
    """Finish an `install` that was killed before it moved the report."""
    complete = (scratch / "ready" / "report.json").is_file()
    if complete and not (folder / "report.json").is_file():
        install(scratch, folder)


def save_calls(job: Job[D, A], batches: tuple[int, ...], path: Path) -> None:
    """Save real held-out inputs for `latency.measure`: calls by batch size."""
    torch.save({f"batch{batch}": job.task.calls(job.data, batch) for batch in batches}, path)


def _named_states(recipe: Recipe, states: list[State]) -> dict[str, State]:
    """The original and the state after each later stage, in the report's order."""
    trained = [i for i, spec in enumerate(recipe.stages, 1) if spec.kind == "train"]
    original = trained[0] if trained else 0
    states_by_name = {"original": states[original]}
    for number, spec in enumerate(recipe.stages, 1):
        if number > original:
            states_by_name[f"stage:{spec.name}"] = states[number]
    return states_by_name


def _measure_all(
    job: Job[D, A], states_by_name: dict[str, State], folder: Path
) -> tuple[dict[str, dict[str, Any]], A, A]:
    """The report's rows of all states, and the answers of the first and of the last one on the
    test split.

    The last state's row is also that of `final`. Saves each model's file in a subfolder of
    `folder`, numbered from 0.
    """
    task, data = job.task, job.data
    rows: dict[str, dict[str, Any]] = {}
    split, reference = data.agreement_split, None
    first: list[A] = []
    for number, (name, state) in enumerate(states_by_name.items()):
        answers = task.predict(state.model, data, "test", name)
        compared = answers if split == "test" else task.predict(state.model, data, split, name)
        reference = compared if reference is None else reference
        first = first or [answers]
        rows[name] = {
            **_measure(job, state, answers, folder / str(number)),
            "agreement": task.agreement(compared, reference),
            "agreement_samples": data.count(split),
            **({"details": state.details} if state.details else {}),
        }
    rows["final"] = {key: value for key, value in rows[name].items() if key != "details"}
    return rows, first[0], answers


def _measure(job: Job[D, A], state: State, answers: A, place: Path) -> dict[str, Any]:
    """Score, cost and size of one model; saves its file in the folder `place`."""
    scripted = script(state, job.task.calls(job.data, 1)[0])
    return {
        **job.task.score(answers, job.data, "test"),
        **job.task.cost(state, job.data, answers),
        # All files have the same name, because the records in the file contain it.
        "bytes": torchscript.save(scripted, place / "model.pt"),
    }


def _check_answers(job: Job[D, A], answers: A, file: Path) -> None:
    """Refuse a file whose answers differ from the model's on the test split.

    Tracing records only the path that the example took, so the file of a model with control flow
    differs only on some inputs.
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
    states_by_name: dict[str, State],
    rows: dict[str, dict[str, Any]],
    scratch: Path,
    model_file: Path,
) -> None:
    """Latency of the original (eager float32), every stage and the final file, interleaved."""
    original, final = states_by_name["original"].original, list(states_by_name.values())[-1]
    # The original is a pickle, which the processes load: nobody else may write where it lies.
    with files.private() as private:
        eager_file, calls_file = private / "original.pt", private / "calls.pt"
        pickles.save(original, eager_file)
        save_calls(job, LATENCY_BATCHES, calls_file)
        contestants = {"original": latency.Contestant(eager_file, eager=True)}
        for number, (name, state) in enumerate(list(states_by_name.items())[1:-1], 1):
            file = scratch / "timed" / str(number) / "model.pt"
            contestants[name] = latency.Contestant(file, engine=state.engine)
        contestants["final"] = latency.Contestant(model_file, engine=final.engine)
        for name, measured in latency.measure(contestants, calls_file).items():
            rows[name]["latency_ms"] = measured
    rows[list(states_by_name)[-1]].setdefault("latency_ms", rows["final"]["latency_ms"])


def _write_card(job: Job[D, A], final: State, folder: Path) -> dict[str, Any]:
    """Write the model card, see docs/architecture.md, and the files that it names; the card."""
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
        "files": sorted([*extra, "NOTICE"]),
    }
    files.write_json(folder / "model.json", card)
    return card


def _write_samples(folder: Path, samples: list[Sample]) -> None:
    """Write encoded test inputs with their labels, for the check after deployment."""
    if not samples:
        return
    with files.replacing(folder) as aside:
        aside.mkdir(parents=True)
        for sample in samples:
            (aside / sample.file).write_bytes(sample.content)
        files.write_json(aside / "labels.json", {s.file: s.label for s in samples})
