"""A look at a user's data: what they are, how many, and how a recipe names them."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimize.data.dataset import Dataset
from optimize.data.tables import SUFFIXES as TABLES
from optimize.data.tables import read_rows
from optimize.errors import DataError
from optimize.utils.wording import few

if TYPE_CHECKING:
    from optimize.data.examples import Example

TAKEN = (
    "a folder of pictures by class (DIR/CLASS/PICTURE.jpg), a table (.csv, .tsv, .jsonl, .parquet) "
    "of texts, picture files or numbers, arrays (.npz, .safetensors), or path/to/file.py:function"
)
_LABELS = ("label", "labels", "class", "target", "targets", "y", "category", "sentiment", "stars")
_TEXTS = ("text", "review", "sentence", "body", "content", "comment", "message")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SOUNDS = (".wav", ".flac", ".mp3", ".ogg", ".m4a")


@dataclass(frozen=True)
class Seen:
    """Data as a recipe names them.

    Attributes:
        data: the recipe's `data`.
        said: what was seen, in a sentence.
        task: the kind of model that they are for; None if they do not say.
        labels: the classes, sorted; none if there are none or they are not known.
        examples: pictures in files, which are not decoded yet.
        loaded: pictures as tensors.
        metric: for the task `tensors`.
    """

    data: Any
    said: str
    task: str | None = None
    labels: tuple[str, ...] = ()
    examples: "tuple[Example, ...]" = ()
    loaded: Dataset | None = None
    metric: str | None = None


def written(path: str, folder: Path) -> str:
    """A path from the current folder as a recipe in `folder` names it."""
    place = Path(path).expanduser()
    return str(place) if place.is_absolute() else os.path.relpath(place, folder)


def look(given: str, folder: Path, *, task: str | None = None, target: str | None = None) -> Seen:
    """What the data at `given` are.

    Args:
        given: `TAKEN`.
        folder: the recipe's.
        task: the kind of model, where the user said it.
        target: the column or array to predict.

    Raises:
        DataError: nothing is there, or nothing that a recipe can name.
    """
    path = Path(given).expanduser()
    if ":" in given and not path.exists():
        return _function(given, folder, task)
    if not path.exists():
        raise DataError(f"there is no {path}: data are {TAKEN}")
    name = written(given, folder)
    if path.is_dir() and not _holds_tables(path):
        return _pictures(path, name)
    if path.suffix.lower() in (".npz", ".safetensors"):
        return _arrays(path, name, task, target)
    if path.is_dir() or path.suffix.lower() in TABLES:
        return _table(path, name, task, target)
    raise DataError(f"{path} is none of what a recipe reads: data are {TAKEN}")


def _function(given: str, folder: Path, task: str | None) -> Seen:
    file, _, function = given.rpartition(":")
    if not Path(file).expanduser().is_file():
        raise DataError(f"there is no {file}: data are {TAKEN}")
    named = f"{written(file, folder)}:{function}"
    data = {"tensors": {"file": named}} if task == "tensors" else named
    metric = "regression" if task == "tensors" else None
    return Seen(data, f"what {given} returns", task, metric=metric)


def _holds_tables(path: Path) -> bool:
    """Whether a folder holds tables of its own; metadata beside pictures are image_folder's."""
    found = [p for p in path.rglob("*") if p.suffix.lower() in TABLES]
    return any(not p.name.startswith("metadata.") for p in found)


def _pictures(path: Path, name: str) -> Seen:
    data = {"image_folder": {"path": name}}
    task = "image_classification"
    if any(path.rglob("metadata.*")):
        return Seen(data, f"pictures that metadata in {path} name", task)
    from optimize.data import image_folder  # needs the extra `images`, as all of them below

    found, _ = image_folder.by_class(path)
    counts = Counter(example.label for example in found)
    if len(counts) < 2:
        held = f"pictures of {few(sorted(counts))} alone" if counts else "no pictures by class"
        raise DataError(
            f"{path} holds {held}: a classifier needs two folders, as in {path}/CAT/1.jpg and "
            f"{path}/DOG/2.jpg"
        )
    return Seen(
        data,
        f"{len(found)} pictures in {_counted(counts)}",
        task,
        tuple(sorted(counts)),
        tuple(found),
    )


def _counted(counts: Mapping[str, int]) -> str:
    """`3 classes: cat 40, dog 38, owl 12`."""
    words = [f"{label} {counts[label]}" for label in sorted(counts)]
    return f"{len(counts)} classes: {few(words, 8)}"


def _arrays(path: Path, name: str, task: str | None, target: str | None) -> Seen:
    if path.suffix == ".npz" and task in (None, "image_classification") and target is None:
        from optimize.data import npz

        try:
            loaded = npz.load(str(path))
        except DataError:
            if task is not None:
                raise
        else:
            count = sum(loaded.count(split) for split in ("train", "validation", "test"))
            shape = "x".join(map(str, loaded.test.inputs.shape[1:]))
            said = f"{count} pictures of {shape} in {len(loaded.labels)} classes"
            labels = tuple(loaded.labels)
            data = {"npz": {"path": name}}
            return Seen(data, said, "image_classification", labels, loaded=loaded)
    shapes = _shapes(path)
    targets = [target] if target else [key for key in shapes if key in _LABELS]
    if target and target not in shapes:
        raise DataError(f"{path} holds no {target}; it holds {few(list(shapes))}")
    whole = bool(targets) and shapes[targets[0]][1]
    listed = few([f"{key} {list(shape)}" for key, (shape, _) in shapes.items()])
    return _tensors(name, f"arrays {listed}", targets, whole)


def _shapes(path: Path) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of each array, by its name without a split, and whether it holds one whole number a
    row."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                arrays: dict[str, Any] = {key: file[key] for key in file.files}
        else:
            from safetensors.numpy import load_file

            arrays = dict(load_file(str(path)))
    except Exception as error:  # safetensors raises a class of its own
        raise DataError(f"{path} cannot be read ({error})") from error
    return {
        _plain(key): (tuple(array.shape), array.dtype.kind in "iub" and array.ndim == 1)
        for key, array in arrays.items()
    }


def _plain(key: str) -> str:
    """An array's name without its split: `y` of `y_train` and `test/y`."""
    for word in ("train", "validation", "test", "valid", "val"):
        for mark in ("_", "/"):
            key = key.removeprefix(word + mark).removesuffix(mark + word)
    return key


def _tensors(name: str, said: str, targets: Sequence[str], whole: bool) -> Seen:
    options = {"file": name} | ({"targets": list(targets)} if targets else {})
    metric = ("classification" if whole else "regression") if targets else "parity"
    judged = f"; {targets[0]} is predicted" if targets else "; none is named as the target"
    return Seen({"tensors": options}, said + judged, "tensors", metric=metric)


def _table(path: Path, name: str, task: str | None, target: str | None) -> Seen:
    rows = read_rows(path, None)
    columns = [str(column) for column in rows[0].fields]
    if path.suffix.lower() == ".tsv" and columns[0].lower().endswith(_SOUNDS):
        data = {"speech": {"path": name}}
        return Seen(data, f"{len(rows) + 1} recordings with transcripts", "speech_recognition")
    if target is not None and target not in columns:
        raise DataError(f"{path} has no column {target}; there are {few(columns, 10)}")
    some = [row.fields for row in rows[:200]]
    label = target or next((c for c in columns if c.lower() in _LABELS), None)
    said = f"{len(rows)} rows of {few(columns, 8)}"
    if task == "text_embedding" or (task is None and {"query", "document"} <= set(columns)):
        return Seen({"text_pairs": {"path": name}}, said, "text_embedding")
    counts = Counter(str(row.fields.get(label)) for row in rows) if label else Counter[str]()
    picture = next((c for c in columns if _all(some, c, _is_picture)), None)
    if label and picture and task in (None, "image_classification"):
        data = {"image_files": {"path": name, "image": picture, "label": label}}
        return Seen(data, f"{said}; {_counted(counts)}", "image_classification")
    text = _text_column(columns, some, label)
    if label and text and task in (None, "text_classification"):
        data = {"text_files": {"path": name, "text": text, "label": label}}
        said = f"{len(rows)} texts ({text}) in {_counted(counts)}"
        return Seen(data, said, "text_classification", tuple(sorted(counts)))
    if task not in (None, "tensors"):
        raise DataError(
            f"{path} has the columns {few(columns, 10)}, and {task} needs one of "
            f"{'picture files' if task == 'image_classification' else 'texts'} and one of labels: "
            "name the labels' with --target"
        )
    label = label or columns[-1]
    numbers = _all(some, label, _is_number)
    whole = not numbers or (_all(some, label, _is_whole) and len(counts) <= 20)
    return _tensors(name, said, [label], whole)


def _text_column(
    columns: Sequence[str], some: Sequence[Mapping[str, Any]], label: str | None
) -> str | None:
    """The column of texts: one with a usual name, else the first that holds several words."""
    others = [column for column in columns if column != label]
    usual = next((column for column in others if column.lower() in _TEXTS), None)
    return usual or next((c for c in others if _all(some, c, _is_text)), None)


def _all(some: Sequence[Mapping[str, Any]], column: str, test: Any) -> bool:
    """Whether most values of a column pass a test."""
    passed = sum(bool(test(row.get(column))) for row in some)
    return passed > 0.9 * len(some)


def _is_picture(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(_PICTURES)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value.split()) > 1


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()
