"""The Optuna study behind a search: where trials are kept, and what they found."""

import dataclasses
from pathlib import Path
from typing import Any

from optimize.errors import RecipeError
from optimize.recipe.schema import Recipe, SearchOptions
from optimize.search import space


def begin(recipe: Recipe, options: SearchOptions, scratch: Path, fingerprint: str) -> Any:
    """The Optuna study of this recipe and data, begun or gone on with."""
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = options.storage or f"sqlite:///{(scratch / 'study.db').resolve()}"
    without = dataclasses.replace(recipe, search=None, serving=type(recipe.serving)())
    name = f"{recipe.name}-{without.digest()[:12]}-{fingerprint[:12]}"
    wait = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=wait)
        study = optuna.create_study(
            study_name=name, storage=storage, load_if_exists=True,
            directions=["minimize", "minimize"],
        )  # fmt: skip
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise RecipeError(
            f"search.storage {url!r} cannot be used: {reason}; it is an SQLAlchemy URL, as in "
            "postgresql://user@host/studies",
            recipe.file,
        ) from error
    before = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(before), n_startup_trials=6)
    if not options.storage:  # nobody else works on it: what runs was killed, and is tried again
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    if not before:
        for params in (space.cheapest(recipe), space.as_written(recipe)):
            study.enqueue_trial(params, skip_if_exists=True)
    return study


def points(study: Any) -> list[dict[str, Any]]:
    """Every candidate of the study that ended, as the report lists it."""
    names = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}
    found = []
    for trial in study.get_trials(deepcopy=False):
        told = trial.user_attrs
        if trial.state.name not in names or "stages" not in told:
            continue
        if trial.state.name == "FAIL" and "error" not in told:
            continue  # killed; tried again under another number
        point = {"number": trial.number, "state": names[trial.state.name]}
        keys = ("stages", "drop", "bytes", "latency_ratio", "cost", "meets_budget")
        point |= {key: told[key] for key in (*keys, "short_drop", "error") if key in told}
        found.append(point)
    done = [p for p in found if p["state"] == "complete"]
    for point in found:
        point["front"] = point in done and not any(
            other["cost"] <= point["cost"]
            and other["drop"] <= point["drop"]
            and (other["cost"], other["drop"]) != (point["cost"], point["drop"])
            for other in done
        )
    return found
