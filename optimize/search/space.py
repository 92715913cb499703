"""What a search may change: candidates made of the recipe's own stages."""

import copy
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from optimize.recipe.schema import Recipe, StageSpec

_SCALES = (0.5, 0.75, 1.0, 1.5)
Params = dict[str, Any]


def prefix(recipe: Recipe) -> int:
    """How many stages come before the first that the search explores."""
    searched = [_is_searched(spec) for spec in recipe.stages]
    return searched.index(True) if True in searched else len(searched)


def choices(recipe: Recipe) -> dict[str, list[Any]]:
    """The search space: values to choose from, by `stage.option`.

    A stage is left out (`prune` with a ratio by 0) or used, with other values of the options
    that say so: `field(..., metadata=explored(...))`; a student is scaled in width. Everything
    else is as written.
    """
    found: dict[str, list[Any]] = {}
    for spec in recipe.stages[prefix(recipe) :]:
        if not _is_searched(spec):
            continue
        if not hasattr(spec.options, "ratio"):
            found[spec.name] = [True, False]
        if _widths(spec):
            found[f"{spec.name}.width"] = list(_SCALES)
        for name, values in _alternatives(spec.options).items():
            found[f"{spec.name}.{name}"] = values
    return found


def as_written(recipe: Recipe) -> Params:
    """The recipe's own point in the space."""
    written: Params = {}
    for key in choices(recipe):
        name, _, option = key.partition(".")
        spec = next(s for s in recipe.stages if s.name == name)
        written[key] = (
            True if not option else 1.0 if option == "width" else getattr(spec.options, option)
        )
    return written


def cheapest(recipe: Recipe) -> Params:
    """The point that needs no training: quantization alone, if the recipe quantizes."""
    params = as_written(recipe)
    for key in params:
        name, _, option = key.partition(".")
        kind = next(s.kind for s in recipe.stages if s.name == name)
        if kind != "quantize" and not option:
            params[key] = False
        elif option == "ratio":
            params[key] = 0.0
    return params


def stages(recipe: Recipe, params: Params) -> list[StageSpec]:
    """The recipe's stages with the options that `params` chooses; those left out are gone."""
    kept = list(recipe.stages[: prefix(recipe)])
    for spec in recipe.stages[prefix(recipe) :]:
        chosen = {
            key.partition(".")[2]: value
            for key, value in params.items()
            if key.partition(".")[0] == spec.name
        }
        if chosen.pop("", True) is False or chosen.get("ratio") == 0.0:
            continue
        scale = chosen.pop("width", 1.0)
        options = dataclasses.replace(spec.options, **chosen)
        if scale != 1.0:
            options = _scaled(options, scale)
        kept.append(dataclasses.replace(spec, options=options))
    return kept


def describe(recipe: Recipe, params: Params) -> str:
    """A candidate in a few words: `distill width 0.5, prune ratio 0.25, quantize`."""
    parts, written = [], as_written(recipe)
    for spec in stages(recipe, params)[prefix(recipe) :]:
        words = [spec.name]
        for key, value in params.items():
            name, _, option = key.partition(".")
            if name == spec.name and option and (option == "ratio" or value != written[key]):
                words.append(f"{option} {value}")
        parts.append(" ".join(words))
    return ", ".join(parts) or "as it is"


def shortened(specs: list[StageSpec], share: float) -> list[StageSpec]:
    """The same stages with a share of their training."""

    def short(options: Any) -> Any:
        changes: dict[str, Any] = {}
        if hasattr(options, "epochs"):
            changes["epochs"] = options.epochs * share
        if getattr(options, "recover", None) is not None:
            changes["recover"] = short(options.recover)
        if getattr(options, "sensitivity", None):
            changes["sensitivity"] = []
        return dataclasses.replace(options, **changes) if changes else options

    return [dataclasses.replace(spec, options=short(spec.options)) for spec in specs]


def trains(specs: list[StageSpec]) -> bool:
    """Whether any of the stages trains."""
    return any(
        hasattr(s.options, "epochs") or getattr(s.options, "recover", None) is not None
        for s in specs
    )


def _is_searched(spec: StageSpec) -> bool:
    """Whether a search may change the stage, or leave it out."""
    return bool(getattr(spec.options, "searched", False))


def _alternatives(options: Any) -> dict[str, list[Any]]:
    """What the dataclass offers to a search: values by option, what is written among them."""
    hints = get_type_hints(type(options))
    found = {}
    for option in dataclasses.fields(options):
        if "explored" not in option.metadata:
            continue
        values = option.metadata["explored"]
        if get_origin(hints[option.name]) is Literal:
            found[option.name] = list(get_args(hints[option.name]))
        else:
            found[option.name] = sorted({*values, getattr(options, option.name)})
    return found


def _widths(spec: StageSpec) -> bool:
    student = getattr(spec.options, "student", None)
    return student is not None and bool({"width", "widths"} & set(student.options))


def _scaled(options: Any, scale: float) -> Any:
    """The options with a student `scale` times as wide, in multiples of 8."""

    def width(value: int) -> int:
        return max(8, round(value * scale / 8) * 8)

    given = copy.deepcopy(options.student.options)
    if "width" in given:
        given["width"] = width(given["width"])
    if "widths" in given:
        given["widths"] = [width(value) for value in given["widths"]]
    student = dataclasses.replace(options.student, options=given)
    return dataclasses.replace(options, student=student)
