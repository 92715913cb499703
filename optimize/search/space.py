"""The search space: candidates made from the recipe's stages."""

import copy
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from optimize.recipe.schema import Recipe, StageSpec

_SCALES = (0.5, 0.75, 1.0, 1.5)
Params = dict[str, Any]


def prefix(recipe: Recipe) -> int:
    """The number of stages before the first that the search explores."""
    searched = [_is_searched(spec) for spec in recipe.stages]
    return searched.index(True) if True in searched else len(searched)


def choices(recipe: Recipe) -> dict[str, list[Any]]:
    """The search space: values to choose from, by `stage.option`.

    A stage can be left out (one with a ratio by a ratio of 0). Options declared with
    `field(..., metadata=explored(...))` take other values, and students are scaled in width.
    Everything else is as in the recipe.
    """
    values_by_key: dict[str, list[Any]] = {}
    for spec in recipe.stages[prefix(recipe) :]:
        if not _is_searched(spec):
            continue
        if not hasattr(spec.options, "ratio"):
            values_by_key[spec.name] = [True, False]
        if _widths(spec):
            values_by_key[f"{spec.name}.width"] = list(_SCALES)
        for name, values in _alternatives(spec.options).items():
            values_by_key[f"{spec.name}.{name}"] = values
    return values_by_key


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
    """The point without training: only quantization, if the recipe quantizes."""
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
    """The recipe's stages with the options in `params`, without those that it leaves out."""
    candidate = list(recipe.stages[: prefix(recipe)])
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
        candidate.append(dataclasses.replace(spec, options=options))
    return candidate


def describe(recipe: Recipe, params: Params) -> str:
    """A candidate as printed: `distill width 0.5, prune ratio 0.25, quantize`."""
    parts, written = [], as_written(recipe)
    for spec in stages(recipe, params)[prefix(recipe) :]:
        part = [spec.name]
        for key, value in params.items():
            name, _, option = key.partition(".")
            if name == spec.name and option and (option == "ratio" or value != written[key]):
                part.append(f"{option} {value}")
        parts.append(" ".join(part))
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
    """Whether a search may change the stage or leave it out."""
    return bool(getattr(spec.options, "searched", False))


def _alternatives(options: Any) -> dict[str, list[Any]]:
    """The values to explore by option, including the option's current value."""
    hints = get_type_hints(type(options))
    alternatives = {}
    for option in dataclasses.fields(options):
        if "explored" not in option.metadata:
            continue
        values = option.metadata["explored"]
        if get_origin(hints[option.name]) is Literal:
            alternatives[option.name] = list(get_args(hints[option.name]))
        else:
            alternatives[option.name] = sorted({*values, getattr(options, option.name)})
    return alternatives


def _widths(spec: StageSpec) -> bool:
    student = getattr(spec.options, "student", None)
    return student is not None and bool({"width", "widths"} & set(student.options))


def _scaled(options: Any, scale: float) -> Any:
    """The options with a student `scale` times as wide, in multiples of 8."""

    def width(value: int) -> int:
        return max(8, round(value * scale / 8) * 8)

    arguments = copy.deepcopy(options.student.options)
    if "width" in arguments:
        arguments["width"] = width(arguments["width"])
    if "widths" in arguments:
        arguments["widths"] = [width(value) for value in arguments["widths"]]
    student = dataclasses.replace(options.student, options=arguments)
    return dataclasses.replace(options, student=student)
