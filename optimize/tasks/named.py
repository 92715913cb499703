"""Calls what a recipe names, with the recipe's options checked against its signature."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from optimize.errors import RecipeError
from optimize.recipe.schema import Named

T = TypeVar("T")


def call(function: Callable[..., T], spec: Named, **defaults: object) -> T:
    """`function` with the options of `spec`, which win over `defaults`.

    A default that the function does not take is left out.

    Raises:
        RecipeError: it has no such option, or refuses a value.
    """
    parameters = inspect.signature(function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in spec.options:
            if name not in parameters:
                known = ", ".join(p for p in parameters if p not in defaults)
                raise RecipeError(
                    f"{spec.name} has no option {name!r}; it takes {known}", *spec.where
                )
        defaults = {name: value for name, value in defaults.items() if name in parameters}
    try:
        return function(**{**defaults, **spec.options})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name}: {error}", *spec.where) from error


def absolute(spec: Named, folder: Path, *names: str) -> Named:
    """`spec` with the paths among its options starting at the recipe's folder."""
    options = dict(spec.options)
    for name in names:
        if isinstance(options.get(name), str):
            options[name] = str(folder / Path(options[name]).expanduser())
    return dataclasses.replace(spec, options=options)


def unknown(what: str, spec: Named, known: list[str]) -> RecipeError:
    """The refusal of a name that stands for nothing."""
    listed = ", ".join(known)
    verb = "are" if len(known) > 1 else "is"
    return RecipeError(f"no {what} {spec.name!r}; there {verb} {listed}", *spec.where)
