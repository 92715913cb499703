"""A first recipe: look at a user's data and model, try them together, write it down."""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize.draft import data, model, text
from optimize.draft.asked import Asked
from optimize.draft.data import Seen
from optimize.draft.model import Model
from optimize.errors import RecipeError
from optimize.recipe.json_schema import NAME_OF_FILE
from optimize.recipe.reader import Named
from optimize.recipe.schema import Recipe
from optimize.tasks import registry
from optimize.utils import files

if TYPE_CHECKING:
    from optimize.draft.pixels import Found

Say = Callable[[str], None]
_FEW = 400  # texts that are enough to try a model with
_TEXTS = ("text_classification", "text_embedding")
_WINDOW = 128  # tokens, where a recipe says nothing


def draft(asked: Asked, folder: Path, say: Say) -> Path:
    """Write a recipe that runs to `folder`, as NAME.yaml; returns its path.

    Data and model are tried together before anything is written.

    Raises:
        OptimizeError: says what to change; nothing is written.
    """
    if not 0 <= asked.max_drop < math.inf:
        raise RecipeError(f"--max-drop must be a finite number of 0 or more, not {asked.max_drop}")
    path = folder / f"{_name(asked)}.yaml"
    if path.exists():
        raise RecipeError(f"{path} is there already: choose another name with --name")
    seen = data.look(asked.data, folder, task=asked.task, target=asked.target)
    say(f"data   {seen.said}")
    task = asked.task or seen.task
    if task is None:
        raise RecipeError(
            f"{asked.data} may be of any kind: say which with --task {'|'.join(registry.names())}"
        )
    if task not in registry.names():
        raise RecipeError(f"there is no task {task}; there are {', '.join(registry.names())}")
    known = registry.load(task).architectures
    found = model.look(asked.model, asked.checkpoint, folder, task, known)
    for line in found.said:
        say(f"model  {line}")
    shown = None
    if task == "image_classification":
        from optimize.draft import pixels  # needs the extra `images`

        shown = pixels.find(seen, _named(found.model), found.checkpoint, folder)
        options = ", ".join(f"{name} {value}" for name, value in shown.input.items())
        say(f"input  {options or 'as the pictures are'}; {shown.said}")
        found = _trained(found, shown, seen)
        if shown.warning and not found.untrained:
            say(f"warning: {shown.warning}")
    if task in _TEXTS and 0 < found.positions < _WINDOW:
        seen = _shorter(seen, found.positions)
    schema = _schema(folder)
    write = _writer(asked, task, path.stem, seen, found, shown, schema)
    _try(task, write, path, None if shown is None else shown.widest)
    return path


def _name(asked: Asked) -> str:
    """The recipe's name: as asked, or the data's."""
    name = asked.name or Path(asked.data.rpartition(":")[0] or asked.data).resolve().stem
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).lstrip("-_.") or "model"


def _shorter(seen: Seen, positions: int) -> Seen:
    """The data cut into windows that the model's positions hold."""
    spec = _named(seen.data)
    data = {spec.name: {**spec.options, "max_length": positions}}
    return dataclasses.replace(seen, data=data)


def _named(value: Any) -> Named:
    """A recipe's `model` as the reader has it."""
    if isinstance(value, str):
        return Named(value)
    ((name, options),) = value.items()
    return Named(name, options if isinstance(options, dict) else {"name": options})


def _trained(found: Model, shown: "Found", seen: Seen) -> Model:
    """A model that answers most pictures right is trained, whatever its file says."""
    if shown.right is None or not found.untrained:
        return found
    labels = seen.loaded.labels if seen.loaded is not None else seen.labels
    above = shown.right > max(0.5, 2 / max(2, len(labels)))
    return dataclasses.replace(found, untrained=not above)


def _schema(folder: Path) -> str:
    """The path of the JSON Schema that `marpress init` wrote, or that comes with this program."""
    for place in (folder / NAME_OF_FILE, folder / "recipes" / NAME_OF_FILE):
        if place.is_file():
            return os.path.relpath(place, folder)
    return NAME_OF_FILE


def _writer(
    asked: Asked,
    task: str,
    name: str,
    seen: Seen,
    found: Model,
    shown: "Found | None",
    schema: str,
) -> Callable[[int, int], str]:
    def write(tokens: int, widest: int) -> str:
        chosen = text.stages(asked, task, found, seen, tokens=tokens, widest=widest)
        return text.recipe(asked, task, name, seen, found, chosen, shown, schema)

    return write


def _try(task: str, write: Callable[[int, int], str], path: Path, widest: int | None) -> None:
    """Read the recipe, load its data and build its model; then it gets its name.

    Of texts only a few are read. Of pictures none are: they and their model were tried before,
    and `widest` is its widest layer.
    """
    kind = registry.load(task)
    with files.private() as scratch:
        aside = scratch / path.name
        aside.write_text(write(0, 0), encoding="utf-8")
        read = registry.read_recipe(aside)
        recipe = _moved(read, path.parent, _FEW if task in _TEXTS else 0)
        tokens = 0
        if widest is None:
            loaded = kind.load_data(recipe)
            widest = model.widest(kind.build_model(recipe, loaded))
            tokens = int(getattr(loaded, "vocabulary", 0))
    final = write(tokens, widest)
    files.write(path, lambda place: place.write_text(final, encoding="utf-8"))


def _moved(recipe: Recipe, folder: Path, limit: int) -> Recipe:
    """The recipe as if it lay in `folder`, with at most `limit` samples, if not 0."""
    spec = recipe.data
    takes = spec.name in registry.load(recipe.task).datasets
    if limit and takes:
        spec = dataclasses.replace(spec, options={**spec.options, "limit": limit})
    return dataclasses.replace(recipe, data=spec, folder=folder.resolve())
