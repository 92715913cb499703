"""Searches for the combination of stages and options that best meets a budget, with Optuna.

Two objectives are minimised, cost and the loss of accuracy on the validation split
(tree-structured Parzen estimator, Bergstra et al. 2011; with several objectives, Ozaki et al.
2020). The first artifact that meets the budget is installed at once and replaced only by a better
one. Every trial is stored in the study before the next one starts.
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from optimize.errors import OptimizeError, RecipeError, StorageError
from optimize.evaluation import latency
from optimize.pipeline import artifact
from optimize.pipeline.job import Job
from optimize.pipeline.stages import run_stages
from optimize.recipe.schema import Recipe, SearchOptions, StageSpec
from optimize.report import page, report
from optimize.search import space, study
from optimize.tasks.base import A, D, Memory, State
from optimize.utils import files, pickles, torchscript
from optimize.utils.urls import cleaned

_ROUNDS = 4
_LEAST_GAIN = 0.98  # ratio of costs; a smaller gain is within measurement noise


@dataclass
class _Tried:
    """A candidate that ran: its states, and measurements of its cost and loss of accuracy."""

    states: list[State]
    measured: dict[str, Any]


@dataclass
class _Search(Generic[D, A]):
    """What all trials share; `answers` and `score` are the original's on the validation split."""

    job: Job[D, A]
    options: SearchOptions
    initial: list[State]
    memory: Memory
    study: Any
    answers: A
    score: float
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        return self.job.recipe

    @property
    def scratch(self) -> Path:
        return self.job.folder / "search"


def run(job: Job[D, A]) -> None:
    """Search, and leave the best artifact that meets the budget in the job's folder.

    Args:
        job: its recipe has `search` set, and its stages are the starting point. Decisions use
            the validation split. The study is in the job's subfolder `search`; `resume` continues
            an earlier one, and one in shared storage is always continued.

    Raises:
        DataError: there is no labelled split for decisions.
        RecipeError: the storage cannot be reached, or there is nothing to explore.
    """
    recipe, task = job.recipe, job.task
    options = recipe.search
    assert options is not None
    if not space.choices(recipe):
        raise RecipeError("search: no stage of this recipe can be searched", recipe.file)
    data = task.with_validation(job.data, recipe.seed)
    digest = job.digest()
    job = dataclasses.replace(job, data=data)
    scratch = job.folder / "search"
    if not job.resume:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    first = dataclasses.replace(recipe, stages=recipe.stages[: space.prefix(recipe)])
    memory = Memory()
    initial = run_stages(
        dataclasses.replace(job, recipe=first), job.folder / "stages", memory=memory
    )
    answers = task.predict(initial[-1].original, data, "validation", "original")
    score = task.score(answers, data, "validation")[task.metric(data).name]
    optuna_study = study.begin(
        recipe, options, scratch, f"{data.fingerprint()[:6]}{job.origins[-1]}"
    )
    search = _Search(job, options, initial, memory, optuna_study, answers, score)
    _restore_best(search)
    with study.explained(options, scratch):
        _loop(search)
    if not search.best:
        _publish_closest(search)
    _update_report(search, digest=digest)


def _loop(search: _Search[D, A]) -> None:
    """Ask for a candidate, try it, tell the result, until trials, minutes or candidates run out."""
    import optuna

    state = optuna.trial.TrialState
    metric = search.job.task.metric(search.job.data)
    end = time.monotonic() + 60 * search.options.minutes
    repeats = 0
    while len(study.points(search.study)) < search.options.trials and time.monotonic() < end:
        trial = search.study.ask()
        params = {
            key: trial.suggest_categorical(key, values)
            for key, values in space.choices(search.recipe).items()
        }
        description = space.describe(search.recipe, params)
        if description in {p["stages"] for p in study.points(search.study)}:
            trial.set_user_attr("repeat", True)
            search.study.tell(trial, state=state.FAIL)
            repeats += 1
            if repeats > 50:
                search.job.say("  every candidate of this space has been tried")
                return
            continue
        repeats = 0
        trial.set_user_attr("stages", description)
        search.job.say(f"  trial {trial.number}: {description}")
        try:
            tried = _try(search, params, end, trial.set_user_attr)
        except StorageError:
            raise
        except (OptimizeError, ValueError) as error:
            trial.set_user_attr("error", cleaned(str(error))[:300])
            search.study.tell(trial, state=state.FAIL)
            search.job.say(f"    failed: {cleaned(str(error))}")
            continue
        for key, value in tried.measured.items():
            trial.set_user_attr(key, value)
        ratio = tried.measured.get("latency_ratio")
        search.job.say(
            f"    {metric.name} {metric.loss(tried.measured['drop'])} on validation, "
            f"{report.size(tried.measured['bytes'])}"
            + (f", {1 / ratio:.1f}x speed" if ratio else "")
            + (", stopped early" if tried.measured["short"] else "")
        )
        if tried.measured["short"]:
            search.study.tell(trial, state=state.PRUNED)
        else:
            search.study.tell(trial, (tried.measured["cost"], max(0.0, tried.measured["drop"])))
            _consider(search, trial.number, params, tried)
        _update_report(search)


def _try(
    search: _Search[D, A], params: space.Params, end: float, note: Callable[[str, Any], None]
) -> _Tried:
    """Train briefly and measure; then train in full unless another candidate is already better."""
    specs = space.stages(search.recipe, params)
    if space.trains(specs[space.prefix(search.recipe) :]):
        brief = _run(search, space.shortened(specs, search.options.short), brief=True)
        for key in ("drop", "cost"):
            note(f"short_{key}", brief.measured[key])
        if _beaten(search, brief.measured) or time.monotonic() > end:
            brief.measured["short"] = True
            return brief
    return _run(search, specs)


def _beaten(search: _Search[D, A], brief: dict[str, Any]) -> bool:
    """Whether a finished candidate costs no more and lost less after its brief training."""
    return any(
        point["cost"] <= brief["cost"] and point.get("short_drop", 1.0) < brief["drop"]
        for point in study.points(search.study)
        if point["state"] == "complete"
    )


def _run(search: _Search[D, A], specs: list[StageSpec], *, brief: bool = False) -> _Tried:
    """Run a candidate's stages and measure it on the validation split.

    With `brief`, latency is measured only if the objective depends on it.
    """
    recipe = dataclasses.replace(search.recipe, stages=specs)
    job = dataclasses.replace(search.job, recipe=recipe, resume=False, say=_silent)
    task, data, budget = job.task, job.data, recipe.budget
    work = search.scratch / "work"
    shutil.rmtree(work, ignore_errors=True)
    states = run_stages(job, work, initial=search.initial, memory=search.memory)
    final, file = states[-1], work / "model.pt"
    size = torchscript.save(artifact.script(final, task.calls(data, 1)[0]), file)
    answers = task.predict(final.model, data, "validation", "candidate")
    metric, row = task.metric(data), task.score(answers, data, "validation")
    drop = metric.lost(search.score, row[metric.name])
    timed = {}
    if not brief or budget.objective != "size":
        ratio, batched = _latency(search, final, file)
        timed = {"latency_ratio": ratio}
    cost = float(size)
    if budget.objective != "size":
        cost = ratio if budget.objective == "latency_batch1" else batched
    return _Tried(
        states,
        {
            "drop": drop,
            "bytes": size,
            **timed,
            "cost": cost,
            "meets_budget": drop <= budget.max_drop + metric.tolerance(row["samples"])
            and task.agreement(answers, search.answers) >= budget.min_agreement
            and (budget.floor is None or metric.lost(budget.floor, row[metric.name]) <= 0),
            "short": False,
        },
    )


def _latency(search: _Search[D, A], final: State, file: Path) -> tuple[float, float]:
    """Latency of the candidate over the original's, for one input and for a full batch."""
    serving = search.recipe.serving
    full = serving.batch_size if search.recipe.budget.objective == "throughput" else 1
    batches = tuple(sorted({1, full}))
    with files.private() as private:
        eager, calls = private / "original.pt", private / "calls.pt"
        pickles.save(final.original, eager)
        artifact.save_calls(search.job, batches, calls)
        measured = latency.measure(
            {
                "original": latency.Contestant(eager, eager=True),
                "candidate": latency.Contestant(file, engine=final.engine),
            },
            calls,
            batches=batches,
            threads=(serving.threads,),
            rounds=_ROUNDS,
        )
    ours, theirs = measured["candidate"], measured["original"]
    ratios = {key: ours[key]["p50"] / theirs[key]["p50"] for key in ours}
    by_batch = {int(key.split("_")[0].removeprefix("batch")): r for key, r in ratios.items()}
    return by_batch[1], by_batch[full]


def _consider(search: _Search[D, A], number: int, params: space.Params, tried: _Tried) -> None:
    """Install the candidate if it meets the budget and is better than the installed one."""
    cost = tried.measured["cost"]
    if not tried.measured["meets_budget"]:
        return
    passed = bool(search.best.get("passed"))
    if passed and cost > search.best["cost"] * _LEAST_GAIN:
        return
    _install(search, number, params, tried, only_if_passed=passed)


def _install(
    search: _Search[D, A], number: int, params: space.Params, tried: _Tried, *, only_if_passed: bool
) -> None:
    recipe = dataclasses.replace(search.recipe, stages=space.stages(search.recipe, params))
    evidence = artifact.prepare(
        dataclasses.replace(search.job, recipe=recipe, say=_silent),
        tried.states,
        search.scratch,
        digest="unfinished search",
        search=_summary(search, number, finished=False),
    )
    passed = evidence["gate"]["passed"]
    if only_if_passed and not passed:
        shutil.rmtree(search.scratch / "ready")
        search.job.say("    the test split says otherwise: not taken")
        return
    artifact.install(search.scratch, search.job.folder)
    search.best = {"number": number, "cost": tried.measured["cost"], "passed": passed}
    files.write_json(search.scratch / "best.json", search.best)
    if passed:
        search.job.say(f"    installed in {search.job.folder}: the best within the budget so far")


def _publish_closest(search: _Search[D, A]) -> None:
    """No candidate met the budget: install the one that lost least, with its report."""
    done = [p for p in study.points(search.study) if p["state"] == "complete"]
    if not done:
        raise RecipeError(
            "search: no candidate could be finished; raise search.minutes or search.trials, and "
            "see the errors above",
            search.recipe.file,
        )
    number = min(done, key=lambda point: point["drop"])["number"]
    params = search.study.get_trials(deepcopy=False)[number].params
    search.job.say(f"  no candidate met the budget; trial {number} lost least")
    tried = _run(search, space.stages(search.recipe, params))
    _install(search, number, params, tried, only_if_passed=False)


def _restore_best(search: _Search[D, A]) -> None:
    """Restore what an earlier run of this study installed."""
    try:
        best = json.loads((search.scratch / "best.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if (search.job.folder / "report.json").is_file() and best.get("passed"):
        search.best = best


def _summary(search: _Search[D, A], chosen: int | None, *, finished: bool) -> dict[str, Any]:
    return {
        "objective": search.recipe.budget.objective,
        "finished": finished,
        "chosen": chosen,
        "points": study.points(search.study),
    }


def _update_report(search: _Search[D, A], *, digest: str | None = None) -> None:
    """Update the search section of the installed report; with a digest, for the last time."""
    if not (search.job.folder / "report.json").is_file():
        return
    evidence = report.read(search.job.folder)
    evidence["search"] = _summary(search, search.best.get("number"), finished=digest is not None)
    if digest is not None:
        evidence["digest"] = digest
        shutil.rmtree(search.scratch / "work", ignore_errors=True)
    page.write(search.job.folder, evidence)
    report.write(search.job.folder, evidence)


def _silent(line: str) -> None:
    """Discard the lines of a candidate's stages; the search prints one line for each."""
