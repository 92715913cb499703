"""The search: Optuna chooses what to try next, cuts short what is behind, and can go on later."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import optuna

from deploy.errors import DeployError
from deploy.tune.settings import Settings, candidates
from deploy.tune.trial import Bench, Point

_STARTUP, _SEED = 5, 0
FINALISTS, REPEATS = 3, 3


@dataclass(frozen=True)
class Goal:
    """What counts: answers within `bound` seconds, at each number of clients."""

    bound: float
    clients: tuple[int, ...]
    seconds: float = 2.0

    def key(self) -> str:
        """What a study must have been made for, to be gone on with."""
        return f"p99 {1e3 * self.bound:g} ms, clients {','.join(map(str, self.clients))}"


@dataclass
class Tried:
    """Settings with their points, and the score of each measurement."""

    settings: Settings
    points: list[Point]
    scores: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The middle one."""
        return sorted(self.scores)[len(self.scores) // 2]


def score(points: Sequence[Point]) -> float:
    """The geometric mean of the worths: twice as good at one client is worth twice at all."""
    return math.exp(sum(math.log(max(point.worth, 0.01)) for point in points) / len(points))


def search(
    bench: Bench,
    goal: Goal,
    first: Settings,
    storage: Path,
    minutes: float,
    tell: Callable[[str], None],
) -> list[Tried]:
    """Try settings for so many minutes, `first` and `first` without waiting for a batch before any
    others; all that were measured whole.

    `storage` keeps every trial: a later call with the same goal goes on where this one stopped.
    """
    study, space = _study(goal, first, storage)
    seen = {_settings(trial) for trial in study.trials if trial.state.is_finished()}
    for one in dict.fromkeys((first, replace(first, max_batch_delay_ms=0))):
        if one in space and one not in seen:
            study.enqueue_trial(one.as_json())
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline and (left := [one for one in space if one not in seen]):
        trial = study.ask()
        settings = _suggested(trial, space)
        if settings in seen or settings not in space:  # what it would try next is no news
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(random.Random(len(left)).choice(left).as_json())
            continue
        seen.add(settings)
        _run(study, trial, bench, goal, settings, tell)
    return [
        Tried(known, [Point(**point) for point in trial.user_attrs["points"]], [value])
        for trial in study.trials
        if (value := trial.value) is not None
        and "points" in trial.user_attrs
        and (known := _settings(trial)) is not None
    ]


def _study(goal: Goal, first: Settings, storage: Path) -> tuple[optuna.Study, list[Settings]]:
    """The study of this goal, and the settings that it is about, which stay what they were."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    of_worth = f"worth, {goal.key()}"
    for name in (of_worth, f"{of_worth}, from {first.describe()}"):
        study = optuna.create_study(
            study_name=name,
            storage=f"sqlite:///{storage}",
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=_SEED, n_startup_trials=_STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP),
        )
        if "space" not in study.user_attrs:
            space = sorted({*candidates(), first})
            study.set_user_attr("space", [one.as_json() for one in space])
        space = [Settings(**one) for one in study.user_attrs["space"]]
        if first in space:
            break
    return study, space


def _suggested(trial: optuna.Trial, space: Sequence[Settings]) -> Settings:
    values = {
        name: trial.suggest_categorical(name, sorted({getattr(one, name) for one in space}))
        for name in space[0].as_json()
    }
    return Settings(**values)


def _settings(trial: optuna.trial.FrozenTrial) -> Settings | None:
    """What a trial tried; None for one that was stopped before it knew."""
    names = Settings.__dataclass_fields__
    return Settings(**trial.params) if trial.params.keys() == names.keys() else None


def confirm(bench: Bench, goal: Goal, tried: list[Tried], tell: Callable[[str], None]) -> None:
    """Measure the best again by turns, so that chance does not choose."""
    best = sorted(tried, key=lambda one: -one.score)[:FINALISTS]
    for _ in range(REPEATS if len(best) > 1 else 0):
        for one in best:
            with bench.serving(one.settings) as served:
                points = [served.measure(n, goal.seconds, goal.bound) for n in goal.clients]
            one.points = points
            one.scores.append(score(points))
            tell(f"again {one.settings.describe()}: {one.scores[-1]:.1f}")


def pareto(tried: Sequence[Tried]) -> list[Tried]:
    """Those that no other beats in worth with many clients and in latency with few."""

    def dominated(one: Tried) -> bool:
        return any(
            other.points[-1].worth >= one.points[-1].worth
            and other.points[0].p50_ms <= one.points[0].p50_ms
            and other is not one
            and (other.points[-1].worth, -other.points[0].p50_ms)
            != (one.points[-1].worth, -one.points[0].p50_ms)
            for other in tried
        )

    return [one for one in tried if not dominated(one)]


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    bench: Bench,
    goal: Goal,
    settings: Settings,
    tell: Callable[[str], None],
) -> None:
    points: list[Point] = []
    try:
        with bench.serving(settings) as served:
            for step, clients in enumerate(goal.clients):
                points.append(served.measure(clients, goal.seconds, goal.bound))
                trial.report(score(points), step)
                if step + 1 < len(goal.clients) and trial.should_prune():
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    tell(f"{settings.describe()}: behind, cut short")
                    return
    except DeployError as error:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        tell(f"{settings.describe()}: {error}")
        return
    trial.set_user_attr("points", [point.as_json() for point in points])
    study.tell(trial, score(points))
    tell(f"{settings.describe()}: {score(points):.1f}")
