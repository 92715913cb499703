"""A data set of images from what a user's code or file gives for each split: pairs of arrays, or
`torch.utils.data` data sets and loaders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from optimize.data import arrays, torch_dataset
from optimize.data.dataset import Dataset, Encoded, Split
from optimize.data.examples import Division, Wanted, class_warnings
from optimize.data.image_input import card_input
from optimize.data.pictures import PictureFile
from optimize.data.tables import ALIASES, SPLITS
from optimize.errors import DataError

TAKEN = (
    'a mapping of splits {"train": ..., "validation": ..., "test": ...}, each a pair (images, '
    "labels), a torch.utils.data.Dataset or a DataLoader; or one of these alone, split by seed"
)
_NAMES = ("labels", "classes", "class_names")


def dataset(
    found: Any,
    *,
    name: str,
    source: str,
    labels: list[str] | None = None,
    layout: str = "NCHW",
    division: Division | None = None,
    wanted: Wanted | None = None,
    folder: Path = Path(),
) -> Dataset:
    """Turn what a loader returned into a `Dataset`.

    Args:
        found: `TAKEN`; a mapping may have `labels`, the names of the classes, and `files`, the
            test pictures' paths in order.
        name, source: of the data set.
        labels: names of the classes.
        layout: of arrays, see `arrays.images`.
        division: how to split what is not split.
        wanted: how pictures that are no arrays yet are prepared.
        folder: where relative paths of `files` start.

    Raises:
        DataError: it is something else, or malformed.
    """
    division, wanted = division or Division(), wanted or Wanted()
    parts, names, paths = _parts(found, name)
    notes: list[str] = []
    files: Sequence[Encoded] = [PictureFile(folder / path) for path in paths]
    splits: dict[str, Split] = {}
    spec = None
    if "" in parts:
        whole = parts[""]
        if not isinstance(whole, TorchDataset | DataLoader):
            notes += _said(whole)
            whole = _pair(whole, name, layout)
        parts = _drawn(whole, division)
        notes.append(
            f"test split drawn with seed {division.seed}: {division.test:g} of the samples"
        )
    for key, part in parts.items():
        where = f"{name}: {key}"
        if isinstance(part, Split):
            splits[key] = part
        elif isinstance(part, TorchDataset | DataLoader):
            read = torch_dataset.read(part, where, wanted, division.seed)
            splits[key], spec = read.split, read.spec or spec
            names = names or read.classes
            notes += [note for note in read.notes if note not in notes]
            if key == "test" and not paths:
                files = read.files
        else:
            splits[key] = _pair(part, where, layout)
            notes += [note for note in _said(part) if note not in notes]
    test = splits["test"]
    if files and len(files) != len(test):
        raise DataError(f"{name}: {len(files)} files for {len(test)} test images")
    classes = int(max(int(s.targets.max()) for s in splits.values())) + 1
    labels = labels or names or [str(number) for number in range(classes)]
    if len(labels) < classes:
        raise DataError(f"{name}: {len(labels)} labels for classes up to {classes - 1}")
    present = {key: [labels[t] for t in split.targets.tolist()] for key, split in splits.items()}
    notes += class_warnings(present, labels)
    shapes = {key: tuple(split.inputs.shape[1:]) for key, split in splits.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"{name}: the splits' images differ in shape: {shapes}")
    channels, height, width = shapes["test"]
    entry: dict[str, Any] = {"size": [height, width], "channels": channels}
    if spec is not None:
        entry = card_input(spec, wanted.input)
    return Dataset(
        name=name,
        source=source,
        labels=labels,
        card_input=entry,
        test=test,
        train=splits.get("train"),
        validation=splits.get("validation"),
        notes=notes,
        files=files,
    )


def _parts(found: Any, name: str) -> tuple[dict[str, Any], list[str], list[Path]]:
    """Each split's part, the labels' names and the test files' paths."""
    if isinstance(found, TorchDataset | DataLoader):
        return {"": found}, [], []
    if isinstance(found, tuple | list) and any(
        isinstance(part, TorchDataset | DataLoader) for part in found
    ):
        raise DataError(
            f"{name} returned {len(found)} data sets without names: return "
            '{"train": ..., "test": ...}, and "validation" if you like'
        )
    if isinstance(found, tuple | list) and len(found) == 2:
        return {"": found}, [], []
    if not isinstance(found, dict):
        raise DataError(f"{name} returned {type(found).__name__}: return {TAKEN}")
    parts = {ALIASES.get(str(key).lower(), str(key).lower()): part for key, part in found.items()}
    names: Any = next((parts.pop(key) for key in _NAMES if parts.get(key) is not None), [])
    paths = parts.pop("files", None) or []
    parts = {key: part for key, part in parts.items() if part is not None and key in SPLITS}
    if "test" not in parts and "validation" in parts:
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        keys = ", ".join(map(repr, found)) or "nothing"
        raise DataError(f"{name} returned a mapping with {keys}, without 'test': return {TAKEN}")
    return parts, [str(label) for label in names], [Path(path) for path in paths]


def _pair(part: Any, where: str, layout: str) -> Split:
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise DataError(f"{where} is {type(part).__name__}, not a pair (images, labels): {TAKEN}")
    images = arrays.images(part[0], where, layout)
    targets = arrays.labels(part[1], len(images), where)
    if not len(images):
        raise DataError(f"{where} is empty")
    return Split(images, targets)


def _said(part: Any) -> list[str]:
    """A remark where pictures were given as floats."""
    kind = getattr(part[0], "dtype", None)
    if kind is None or str(kind).removeprefix("torch.") == "uint8":
        return []
    return [arrays.FLOATS]


def _drawn(whole: Any, division: Division) -> dict[str, Any]:
    """Train, validation and test of one pair or data set."""
    torch_like = isinstance(whole, TorchDataset | DataLoader)
    count = torch_dataset.length(whole) if torch_like else len(whole)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(division.seed))
    test = max(1, round(division.test * count))
    validation = round(division.validation * count)
    index = {
        "train": order[test + validation :],
        "validation": order[test : test + validation],
        "test": order[:test],
    }
    take = torch_dataset.subset if torch_like else Split.__getitem__
    return {key: take(whole, chosen) for key, chosen in index.items() if len(chosen)}
