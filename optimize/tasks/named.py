"""Calls functions named in a recipe, with options checked against their signatures."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optimize.errors import RecipeError
from optimize.recipe.schema import Named

T = TypeVar("T")


def call(function: Callable[..., T], spec: Named, **defaults: object) -> T:
    """Call `function` with the options of `spec`, which override `defaults`.

    Defaults that are not parameters of the function are left out.

    Raises:
        RecipeError: the function has no such option, or refuses a value.
    """
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in spec.options:
            if name not in parameters:
                accepted = ", ".join(p for p in parameters if p not in defaults)
                raise RecipeError(
                    f"{spec.name} has no option {name!r}; it takes {accepted}", *spec.where
                )
        defaults = {name: value for name, value in defaults.items() if name in parameters}
    try:
        return function(**{**defaults, **spec.options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name}: {error}", *spec.where) from error


def absolute(spec: Named, folder: Path, *names: str) -> Named:
    """`spec` with relative paths in the options `names` resolved from the recipe's folder."""
    options = dict(spec.options)
    for name in names:
        if isinstance(options.get(name), str):
            options[name] = str(folder / Path(options[name]).expanduser())
    return dataclasses.replace(spec, options=options)


def with_path(spec: Named) -> Named:
    """`{npz: FILE}` as `{npz: {path: FILE}}`."""
    if set(spec.options) != {"name"}:
        return spec
    return dataclasses.replace(spec, options={"path": spec.options["name"]})


def unknown(what: str, spec: Named, choices: list[str]) -> RecipeError:
    """The error for a name that does not exist."""
    listed = ", ".join(choices)
    verb = "are" if len(choices) > 1 else "is"
    return RecipeError(f"no {what} {spec.name!r}; there {verb} {listed}", *spec.where)
