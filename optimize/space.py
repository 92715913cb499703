"""What a search may change: candidates made of the recipe's own stages."""

import copy
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from optimize.recipe import Recipe, StageSpec

_RATIOS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75)
_SCALES = (0.5, 0.75, 1.0, 1.5)
_EXPLORED = ("distill", "prune", "quantize")
# Options with a fixed set of values that are worth trying, where a stage has them.
_CHOICES = ("importance", "scope", "method")
Params = dict[str, Any]


def prefix(recipe: Recipe) -> int:
    """How many stages come before the first that the search explores."""
    kinds = [spec.kind for spec in recipe.stages]
    return next((n for n, kind in enumerate(kinds) if kind in _EXPLORED), len(kinds))


def choices(recipe: Recipe) -> dict[str, list[Any]]:
    """The search space: values to choose from, by `stage.option`.

    `distill` is left out or used, its student scaled in width; `prune` tries ratios, 0 leaves
    it out; `quantize` tries its methods, `none` leaves it out. Everything else is as written.
    """
    found: dict[str, list[Any]] = {}
    for spec in recipe.stages[prefix(recipe) :]:
        if spec.kind == "distill":
            found[spec.name] = [True, False]
            if _widths(spec):
                found[f"{spec.name}.width"] = list(_SCALES)
        elif spec.kind == "prune":
            found[f"{spec.name}.ratio"] = sorted({*_RATIOS, spec.options.ratio})
        elif spec.kind == "quantize":
            found[spec.name] = [True, False]
        if spec.kind in _EXPLORED:
            for name, values in _literals(spec.options).items():
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
        if kind == "distill" and not option:
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


def _literals(options: Any) -> dict[str, list[Any]]:
    """Options of the dataclass that take one of a few fixed values."""
    hints = get_type_hints(type(options))
    return {
        name: list(get_args(hints[name]))
        for name in _CHOICES
        if name in hints and get_origin(hints[name]) is Literal
    }


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
