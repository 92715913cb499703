"""The Optuna study of a search: its storage, and the points of its trials."""

import dataclasses
from pathlib import Path
from typing import Any

from optimize.errors import RecipeError
from optimize.recipe.schema import Recipe, SearchOptions
from optimize.search import space


def begin(recipe: Recipe, options: SearchOptions, scratch: Path, fingerprint: str) -> Any:
    """The Optuna study of this recipe and data, a new or an earlier one.

    Raises:
        RecipeError: the storage cannot be used.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = options.storage or f"sqlite:///{(scratch / 'study.db').resolve()}"
    without = dataclasses.replace(recipe, search=None, serving=type(recipe.serving)())
    name = f"{recipe.name}-{without.digest()[:12]}-{fingerprint[:12]}"
    engine_options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else None
    try:
        storage = optuna.storages.RDBStorage(url, engine_kwargs=engine_options)
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
    earlier = study.get_trials(deepcopy=False)
    study.sampler = optuna.samplers.TPESampler(seed=recipe.seed + len(earlier), n_startup_trials=6)
    if not options.storage:  # not shared, so a running trial was killed: try it again
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
    if not earlier:
        for params in (space.cheapest(recipe), space.as_written(recipe)):
            study.enqueue_trial(params, skip_if_exists=True)
    return study


def points(study: Any) -> list[dict[str, Any]]:
    """Every finished candidate of the study, as listed in the report."""
    names = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        attrs = trial.user_attrs
        if trial.state.name not in names or "stages" not in attrs:
            continue
        if trial.state.name == "FAIL" and "error" not in attrs:
            continue  # killed; tried again under another number
        point = {"number": trial.number, "state": names[trial.state.name]}
        keys = ("stages", "drop", "bytes", "latency_ratio", "cost", "meets_budget")
        point |= {key: attrs[key] for key in (*keys, "short_drop", "error") if key in attrs}
        rows.append(point)
    done = [p for p in rows if p["state"] == "complete"]
    for point in rows:
        point["front"] = point in done and not any(
            other["cost"] <= point["cost"]
            and other["drop"] <= point["drop"]
            and (other["cost"], other["drop"]) != (point["cost"], point["drop"])
            for other in done
        )
    return rows
