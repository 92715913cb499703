"""The Optuna study of a search: its storage, and the points of its trials."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optimize.errors import RecipeError, StorageError
from optimize.recipe.schema import Recipe, SearchOptions
from optimize.search import space
from optimize.utils.urls import cleaned


def begin(recipe: Recipe, options: SearchOptions, scratch: Path, fingerprint: str) -> Any:
    """The Optuna study of this recipe and data, a new or an earlier one.

    Raises:
        RecipeError: the recipe's storage cannot be used.
        StorageError: the artifact's folder cannot be written to.
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
        reason = cleaned(str(error).split("\n")[0].replace(url, cleaned(url)))
        if not options.storage:
            raise StorageError(
                f"the study in {scratch} cannot be written: {reason}; free some space"
            ) from error
        raise RecipeError(
            f"search.storage {cleaned(url)!r} cannot be used: {reason}; it is an SQLAlchemy URL, "
            "as in postgresql://user@host/studies",
            recipe.file,
        ) from None  # the error's own text may hold the password
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


@contextlib.contextmanager
def explained(options: SearchOptions, scratch: Path) -> Iterator[None]:
    """Turn an error of the study's storage within the block into a sentence.

    Raises:
        StorageError: the storage raised.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        where = cleaned(options.storage) or str(scratch)
        reason = str(error.__cause__ or error).split("\n")[0]
        if options.storage:
            reason = cleaned(reason.replace(options.storage, where))
        raise StorageError(
            f"the study in {where} cannot be written: {reason}; mend it and add --resume"
        ) from None  # the error's own text may hold the password


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
