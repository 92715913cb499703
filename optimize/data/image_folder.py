"""Pictures in a folder by class: `DIR/CLASS/*.jpg`, or `DIR/train/CLASS/*.jpg` and so on.

Classes are the names of the folders, in the order of torchvision's `ImageFolder`: sorted as
words. A folder with a `metadata.csv` (`.jsonl`, `.parquet`) in place of classes is read as
Hugging Face's `imagefolder`: its column `file_name` names the pictures.
"""

import dataclasses
from pathlib import Path

from optimize.data import examples, image_files
from optimize.data.dataset import Dataset
from optimize.data.examples import Division, Example, Wanted
from optimize.data.pictures import SUFFIXES, PictureFile
from optimize.data.tables import ALIASES, SPLITS
from optimize.errors import DataError

TAKEN = (
    "pictures by class as DIR/CLASS/PICTURE.jpg, or split too, as DIR/train/CLASS/PICTURE.jpg with "
    "train, val and test"
)


def load(
    path: str,
    test: float = 0.2,
    validation: float = 0.1,
    labels: list[str] | None = None,
    max_unreadable: float = 0.05,
    seed: int = 0,
    wanted: Wanted | None = None,
) -> Dataset:
    """Pictures by class.

    Args:
        path: the folder.
        test, validation: shares of the pictures in these splits, where folders do not say.
        labels: classes in the model's order; by default the folders' names, sorted.
        max_unreadable: largest share of pictures that cannot be decoded.
        seed: of the split.
        wanted: how pictures are prepared.

    Raises:
        DataError: there are no such folders, or see `examples.dataset`.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: image_folder takes {TAKEN}")
    metadata = _metadata(folder)
    if metadata is not None:
        return image_files.load(
            str(metadata),
            image="file_name",
            test=test,
            validation=validation,
            labels=labels,
            max_unreadable=max_unreadable,
            seed=seed,
            wanted=wanted,
        )
    found, ignored = by_class(folder)
    if not found:
        raise DataError(f"{folder} holds no pictures by class: image_folder takes {TAKEN}")
    data = examples.dataset(
        found,
        wanted or Wanted(),
        Division(test, validation, max_unreadable, seed),
        name=folder.name,
        source=f"folder {folder}",
        labels=labels,
    )
    if not ignored:
        return data
    note = f"beside train, val and test these folders are not read: {', '.join(ignored)}"
    return dataclasses.replace(data, notes=[*data.notes, note])


def _metadata(folder: Path) -> Path | None:
    """Hugging Face's `metadata.csv`; the folder itself where each split has one."""
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if any((place / f"metadata.{kind}").is_file() for kind in ("csv", "jsonl", "parquet")):
            if place != folder:
                return folder
            return next(iter(sorted(folder.glob("metadata.*"))))
    return None


def by_class(folder: Path) -> tuple[list[Example], list[str]]:
    """The pictures, and the folders that are neither splits nor classes."""
    places = {p.name: p for p in sorted(folder.iterdir()) if _visible(p) and p.is_dir()}
    splits = {ALIASES.get(name.lower(), name.lower()): p for name, p in places.items()}
    ignored: list[str] = []
    if "train" in splits and len(set(splits) & set(SPLITS)) > 1:
        ignored = [place.name for name, place in splits.items() if name not in SPLITS]
    if splits and (ignored or set(splits) <= set(SPLITS)):
        parts = [
            (split, place.name, place)
            for split, parent in splits.items()
            if split in SPLITS
            for place in sorted(parent.iterdir())
            if _visible(place) and place.is_dir()
        ]
    else:
        parts = [("", name, place) for name, place in places.items()]
    found = [
        Example(file.relative_to(folder).as_posix(), PictureFile(file), label, split)
        for split, label, place in parts
        for file in sorted(place.rglob("*"))
        if _visible(file) and file.suffix.lower() in SUFFIXES
    ]
    return found, ignored


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "__MACOSX"))
