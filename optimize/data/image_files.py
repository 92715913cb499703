"""Pictures listed in a table with their labels: CSV, TSV, JSON lines or Parquet of paths, or a
Hugging Face `datasets` folder or Parquet file that holds the pictures themselves."""

from pathlib import Path
from typing import Any

from optimize.data import examples
from optimize.data.dataset import Dataset, Encoded
from optimize.data.examples import Division, Example, Wanted
from optimize.data.pictures import PictureFile
from optimize.data.tables import Cell, Row, class_names, natural, read_rows
from optimize.errors import DataError

IMAGE_COLUMNS = ("image", "path", "file", "file_name", "filename", "filepath", "img")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "fine_label")
TAKEN = (
    "a table (CSV, TSV, JSON lines, Parquet) with a column of paths and a column of labels, or a "
    "folder that datasets.save_to_disk wrote"
)


def load(
    path: str,
    image: str | None = None,
    label: str | None = None,
    split: str | None = None,
    labels: list[str] | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    max_unreadable: float = 0.05,
    seed: int = 0,
    wanted: Wanted | None = None,
) -> Dataset:
    """Pictures and labels of a table.

    Args:
        path: a file, or a folder with files (or folders) named train, validation and test.
        image, label: names of columns; by default the first usual one, such as `image` or
            `path`, and `label`. Paths are relative to the table.
        split: column that holds train, validation or test, if the files are not split.
        labels: names of the classes in the model's order; by default those of the data's
            ClassLabel, or those that occur, sorted, numbers by value.
        test, validation: shares of the pictures in these splits, if the data are not split.
        max_unreadable: largest share of pictures that cannot be decoded.
        seed: of the split.
        wanted: how pictures are prepared.

    Raises:
        DataError: no such table or column, a row without a label, or see `examples.dataset`.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise DataError(f"there is no {place}: image_files takes {TAKEN}")
    rows = read_rows(place, split)
    image = _column(rows[0], image, IMAGE_COLUMNS, "image")
    label = _column(rows[0], label, LABEL_COLUMNS, "label")
    names = class_names(place, label)
    found = [
        Example(f"{row.where}", _picture(row, image, place), _label(row, label, names), row.split)
        for row in rows
    ]
    return examples.dataset(
        found,
        wanted or Wanted(),
        Division(test, validation, max_unreadable, seed),
        name=place.stem,
        source=str(place),
        labels=labels or names or None,
        order=natural,
    )


def _column(row: Row, given: str | None, usual: tuple[str, ...], what: str) -> str:
    columns = ", ".join(str(name) for name in row.fields)
    if given is not None:
        if given not in row.fields:
            raise DataError(f"{row.where}: no column {given!r}; there are {columns}")
        return given
    found = next((name for name in usual if name in row.fields), None)
    if found is None:
        raise DataError(
            f"{row.where}: which column holds the {what}? Say `{what}: COLUMN`, one of {columns}; "
            f"image_files takes {TAKEN}"
        )
    return found


def _picture(row: Row, column: str, place: Path) -> Encoded:
    value: Any = row.fields[column]
    if isinstance(value, Cell):
        return value
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: {column} holds no path; leave the row out")
    return PictureFile(row.folder / Path(value.strip()).expanduser())


def _label(row: Row, column: str, names: list[str]) -> str:
    value = row.fields.get(column)
    if value is None or not str(value).strip():
        raise DataError(f"{row.where}: {column} is empty; label the row or leave it out")
    if names and isinstance(value, int):
        if not 0 <= value < len(names):
            raise DataError(f"{row.where}: {column} is {value}, there are {len(names)} classes")
        return names[value]
    return str(value).strip()
