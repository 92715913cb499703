"""Search: which distillation, pruning and quantization serve a budget best, tried with Optuna.

Two things are made small at once, cost and the loss of accuracy on the validation split
(tree-structured Parzen estimator, Bergstra et al. 2011, several objectives as Ozaki et al.
2020). The first artefact that meets the budget is installed at once and replaced only by a
better one; every trial is in the study's storage before the next begins.
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

_ROUNDS = 4
_LEAST_GAIN = 0.98  # of the cost: less is within the noise of a measurement


@dataclass
class _Tried:
    """A candidate that ran: its states, and what it costs and loses."""

    states: list[State]
    found: dict[str, Any]


@dataclass
class _Search(Generic[D, A]):
    """What every trial needs; `answers` and `score` are the original's on the validation split."""

    job: Job[D, A]
    options: SearchOptions
    begun: list[State]
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
    """Search, and leave the best artefact that meets the budget in the job's folder.

    Args:
        job: its recipe has `search` set, and stages that are the starting point. Decisions use
            the validation split. The study is in the folder's subfolder `search`; with `resume`
            an earlier one goes on, and one in a shared storage always does.

    Raises:
        DataError: there is no labelled split to decide on.
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
    begun = run_stages(dataclasses.replace(job, recipe=first), job.folder / "stages", memory=memory)
    answers = task.predict(begun[-1].original, data, "validation", "original")
    score = task.score(answers, data, "validation")[task.metric(data).name]
    begun_study = study.begin(recipe, options, scratch, data.fingerprint())
    search = _Search(job, options, begun, memory, begun_study, answers, score)
    _remember(search)
    _loop(search)
    if not search.best:
        _publish_closest(search)
    _account(search, digest=digest)


def _loop(search: _Search[D, A]) -> None:
    """Ask, try, tell, until the trials or the minutes are used up or nothing new is left."""
    import optuna

    state = optuna.trial.TrialState
    end = time.monotonic() + 60 * search.options.minutes
    repeats = 0
    while len(study.points(search.study)) < search.options.trials and time.monotonic() < end:
        trial = search.study.ask()
        params = {
            key: trial.suggest_categorical(key, values)
            for key, values in space.choices(search.recipe).items()
        }
        words = space.describe(search.recipe, params)
        if words in {p["stages"] for p in study.points(search.study)}:
            trial.set_user_attr("repeat", True)
            search.study.tell(trial, state=state.FAIL)
            repeats += 1
            if repeats > 50:
                search.job.say("  every candidate of this space has been tried")
                return
            continue
        repeats = 0
        trial.set_user_attr("stages", words)
        search.job.say(f"  trial {trial.number}: {words}")
        try:
            tried = _try(search, params, end, trial.set_user_attr)
        except StorageError:
            raise
        except (OptimizeError, ValueError) as error:
            trial.set_user_attr("error", str(error)[:300])
            search.study.tell(trial, state=state.FAIL)
            search.job.say(f"    failed: {error}")
            continue
        for key, value in tried.found.items():
            trial.set_user_attr(key, value)
        ratio = tried.found.get("latency_ratio")
        search.job.say(
            f"    loses {tried.found['drop'] * 100:+.2f} points on validation, "
            f"{report.size(tried.found['bytes'])}"
            + (f", {1 / ratio:.1f}x speed" if ratio else "")
            + (", stopped early" if tried.found["short"] else "")
        )
        if tried.found["short"]:
            search.study.tell(trial, state=state.PRUNED)
        else:
            search.study.tell(trial, (tried.found["cost"], max(0.0, tried.found["drop"])))
            _consider(search, trial.number, params, tried)
        _account(search)


def _try(
    search: _Search[D, A], params: space.Params, end: float, note: Callable[[str, Any], None]
) -> _Tried:
    """Train a little, measure, and train in full unless another candidate is better already."""
    specs = space.stages(search.recipe, params)
    if space.trains(specs[space.prefix(search.recipe) :]):
        brief = _run(search, space.shortened(specs, search.options.short), brief=True)
        for key in ("drop", "cost"):
            note(f"short_{key}", brief.found[key])
        if _beaten(search, brief.found) or time.monotonic() > end:
            brief.found["short"] = True
            return brief
    return _run(search, specs)


def _beaten(search: _Search[D, A], brief: dict[str, Any]) -> bool:
    """Whether a finished candidate costs no more and lost less after as short a training."""
    return any(
        point["cost"] <= brief["cost"] and point.get("short_drop", 1.0) < brief["drop"]
        for point in study.points(search.study)
        if point["state"] == "complete"
    )


def _run(search: _Search[D, A], specs: list[StageSpec], *, brief: bool = False) -> _Tried:
    """Run a candidate's stages and measure it on the validation split, latency only if it
    matters where that is to be `brief`."""
    recipe = dataclasses.replace(search.recipe, stages=specs)
    job = dataclasses.replace(search.job, recipe=recipe, resume=False, say=_silent)
    task, data, budget = job.task, job.data, recipe.budget
    work = search.scratch / "work"
    shutil.rmtree(work, ignore_errors=True)
    states = run_stages(job, work, begun=search.begun, memory=search.memory)
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
            and task.agreement(answers, search.answers) >= budget.min_agreement,
            "short": False,
        },
    )


def _latency(search: _Search[D, A], final: State, file: Path) -> tuple[float, float]:
    """Time of the candidate over the original's, for one input and for a full batch."""
    work, serving = file.parent, search.recipe.serving
    full = serving.batch_size if search.recipe.budget.objective == "throughput" else 1
    batches = tuple(sorted({1, full}))
    eager, calls = work / "original.eager.pt", work / "calls.pt"
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
    """Install the candidate if it meets the budget and is better than what is there."""
    cost = tried.found["cost"]
    if not tried.found["meets_budget"]:
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
    search.best = {"number": number, "cost": tried.found["cost"], "passed": passed}
    files.write_json(search.scratch / "best.json", search.best)
    if passed:
        search.job.say(f"    installed in {search.job.folder}: the best within the budget so far")


def _publish_closest(search: _Search[D, A]) -> None:
    """No candidate met the budget: install the one that lost least, for its report."""
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


def _remember(search: _Search[D, A]) -> None:
    """What an earlier run of this study installed."""
    try:
        kept = json.loads((search.scratch / "best.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if (search.job.folder / "report.json").is_file() and kept.get("passed"):
        search.best = kept


def _summary(search: _Search[D, A], chosen: int | None, *, finished: bool) -> dict[str, Any]:
    return {
        "objective": search.recipe.budget.objective,
        "finished": finished,
        "chosen": chosen,
        "points": study.points(search.study),
    }


def _account(search: _Search[D, A], *, digest: str | None = None) -> None:
    """Bring the installed report's account of the search up to date; with a digest it is the
    last one."""
    if not (search.job.folder / "report.json").is_file():
        return
    evidence = report.read(search.job.folder)
    evidence["search"] = _summary(search, search.best.get("number"), finished=digest is not None)
    if digest is not None:
        evidence["digest"] = digest
        shutil.rmtree(search.scratch / "work", ignore_errors=True)
    page.write(search.job.folder, evidence)
    files.write_json(search.job.folder / "report.json", evidence)


def _silent(line: str) -> None:
    """Stages of candidates are told in one line of their own."""
