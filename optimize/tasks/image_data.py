"""The pictures that a recipe names, and how they become what the model takes."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path

from handlers.images import ImageSpec
from optimize.data import preprocessing, splits
from optimize.data.dataset import Dataset
from optimize.data.examples import Division, Wanted
from optimize.data.image_input import ImageInput, card_input, describe, pair
from optimize.data.tables import SUFFIXES
from optimize.errors import DataError, RecipeError
from optimize.models.sources.user_file import load_function
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import named

DATASETS = ("fashion_mnist", "image_files", "image_folder", "imagenet_samples", "npz")
TAKEN = (
    "image_folder: DIR (pictures by class), image_files: TABLE (CSV, JSON lines or Parquet of "
    "paths and labels, or a Hugging Face datasets folder), npz: FILE, or path/to/file.py:function "
    "(arrays, a torch Dataset or a DataLoader)"
)
SCALING = (
    "images came as tensors, so nothing shows how their files were scaled: the server keeps the "
    "aspect and crops the centre. If they were squashed, say `input: {resize: squash}`; a loader "
    "that returns `files`, the test pictures' paths, has it proven"
)


def load(recipe: Recipe) -> Dataset:
    """The data set that a recipe names, prepared as its `input` and its model's files say."""
    preset, where = preprocessing.read(recipe.model, recipe.folder)
    serving = recipe.serving
    return load_data(
        recipe.data,
        recipe.folder,
        recipe.seed,
        options=recipe.input,
        preset=preset,
        preset_from=where,
        limits=Wanted(max_pixels=serving.max_pixels, max_bytes=serving.max_bytes),
    )


def load_data(
    spec: Named,
    folder: Path,
    seed: int,
    *,
    options: ImageInput | None = None,
    preset: ImageInput | None = None,
    preset_from: str = "",
    limits: Wanted | None = None,
) -> Dataset:
    """Load the data set `spec` names: a module of `optimize.data`, or `file.py:function`.

    A user's function returns what `splits.TAKEN` says, or a `Dataset`.

    Args:
        spec: the name and its options.
        folder: where relative paths start.
        seed: of splits.
        options: the recipe's `input`.
        preset: what the model's own files say of its input; the options go before.
        preset_from: where that stands.
        limits: the server's, which also hold for the data's files.

    Raises:
        DataError: the data are absent or malformed.
        RecipeError: no such data set or option, or an input that the data do not fit.
    """
    options, preset = options or ImageInput(), preset or ImageInput()
    wanted = dataclasses.replace(limits or Wanted(), input=options.over(preset))
    spec = _resolve(spec, folder)
    if ":" in spec.name:
        loaded = named.call_users(load_function(spec.name, folder), spec, DataError)
        data = (
            loaded
            if isinstance(loaded, Dataset)
            else splits.dataset(
                loaded,
                name=spec.name,
                source=f"loader {spec.name}",
                division=Division(seed=seed),
                wanted=wanted,
                folder=folder,
            )
        )
    elif spec.name in DATASETS:
        loader: Callable[..., Dataset]
        loader = importlib.import_module(f"optimize.data.{spec.name}").load
        spec = named.absolute(spec, folder, "path")
        data = named.call(loader, spec, seed=seed, wanted=wanted)
    else:
        raise RecipeError(
            f"no data set {spec.name!r}; there are {', '.join(DATASETS)}: {TAKEN}", *spec.where
        )
    return _prepared(data, options, preset, preset_from)


def _resolve(spec: Named, folder: Path) -> Named:
    """A bare path as the data set that reads it, and `{image_folder: DIR}` as its `path`."""
    if spec.name in DATASETS:
        return named.with_path(spec)
    if ":" in spec.name or not ("/" in spec.name or Path(spec.name).suffix):
        return spec
    place = folder / Path(spec.name).expanduser()
    kind = None
    if place.suffix == ".npz":
        kind = "npz"
    elif place.suffix.lower() in SUFFIXES:
        kind = "image_files"
    elif place.is_dir():
        tables = any(place.rglob("*.arrow")) or any(place.glob("*.parquet"))
        kind = "image_files" if tables else "image_folder"
    return Named(kind, {"path": spec.name, **spec.options}, spec.where) if kind else spec


def _prepared(data: Dataset, options: ImageInput, preset: ImageInput, preset_from: str) -> Dataset:
    """The data with the card's `input` in full and the recipe's normalisation.

    Images that come as tensors are of the model's size already. What the model's files say of
    scaling holds for served pictures only if they are of the size that these files name.

    Raises:
        RecipeError: the recipe's input is not the tensors'.
    """
    entry, notes = data.card_input, list(data.notes)
    if "interpolation" in entry:  # decoded from files
        spec, values = ImageSpec.from_card(entry), options.over(preset)
    else:
        shape = data.test.inputs.shape[1:]
        channels, size = int(shape[0]), (int(shape[1]), int(shape[2]))
        _refuse(options, channels, size)
        fits = preset.size is not None and pair(preset.size) == size
        own = ImageSpec.from_card({"size": list(size), "channels": channels, **entry})
        base = ImageInput(resize_size=own.resize_size if isinstance(own.resize_size, int) else None)
        values = options.over(preset if fits and "resize" not in entry else base)
        spec = values.spec(size, channels)
        values = options.over(preset)
        if not data.files and options.resize is None and "resize" not in entry:
            notes.append(SCALING)
    if preset_from:
        notes.append(f"input of {preset_from}: {describe(spec)}")
    return dataclasses.replace(
        data,
        card_input=card_input(spec, values),
        normalization=options.normalization(),
        notes=notes,
    )


def _refuse(options: ImageInput, channels: int, size: tuple[int, int]) -> None:
    given = options.size
    if given is not None and pair(given) != size:
        raise RecipeError(
            f"input.size is {given}, the data's images are {size[0]}x{size[1]}: a loader of "
            "tensors brings them to the model's size itself; leave size out, or bring files",
            *options.where,
        )
    if options.channels not in (None, channels):
        raise RecipeError(
            f"input.color_order is {options.color_order}, the data's images have {channels} "
            f"channel{'s' * (channels > 1)}",
            *options.where,
        )
