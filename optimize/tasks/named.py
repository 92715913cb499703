"""Calls functions named in a recipe, with options checked against their signatures."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from optimize.errors import OptimizeError, RecipeError
from optimize.models.sources.user_file import described
from optimize.recipe.schema import Named
from optimize.utils.torchvision_shim import retrying

T = TypeVar("T")


def call(function: Callable[..., T], spec: Named, **defaults: object) -> T:
    """Call `function` with the options of `spec`, which override `defaults`.

    Defaults that the function does not name as parameters are left out: what it takes as
    `**options` is the recipe's alone.

    Raises:
        RecipeError: the function has no such option, or refuses a value.
    """
    arguments = _arguments(function, spec, defaults)
    try:
        return function(**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{spec.name}: {error}", *spec.where) from error


def call_users(
    function: Callable[..., T], spec: Named, refusal: type[OptimizeError], **defaults: object
) -> T:
    """As `call`, for a function from a user's file, which can raise anything.

    Raises:
        RecipeError: the function has no such option, or lacks one.
        refusal: it raised; the message shows the user's own lines.
    """
    arguments = _arguments(function, spec, defaults)
    try:
        return retrying(lambda: function(**arguments))
    except OptimizeError:
        raise
    except (Exception, SystemExit) as error:
        raise refusal(f"{spec.name} failed: {described(error)}") from error


def _arguments(
    function: Callable[..., Any], spec: Named, defaults: dict[str, object]
) -> dict[str, Any]:
    signature = inspect.signature(function)
    parameters = signature.parameters
    accepted = [n for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in spec.options:
            if name not in accepted:
                known = ", ".join(p for p in accepted if p not in defaults) or "none"
                raise RecipeError(
                    f"{spec.name} has no option {name!r}; it takes {known}", *spec.where
                )
    arguments = {name: value for name, value in defaults.items() if name in accepted}
    arguments.update(spec.options)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise RecipeError(
            f"{spec.name}: {error}; write it as an option: {{{spec.name}: {{OPTION: VALUE}}}}",
            *spec.where,
        ) from error
    return arguments


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
