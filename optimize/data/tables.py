"""Records of a table with their places: CSV, TSV, JSON lines, Parquet, a folder of these, or a
folder that Hugging Face `datasets` saved.

Pictures inside a Parquet or Arrow file are not read with the other columns: their records hold
an object that reads one when asked.
"""

import bisect
import csv
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimize.errors import DataError

SPLITS = ("train", "validation", "test")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
ALIASES = {"dev": "validation", "valid": "validation", "val": "validation", "training": "train"}
_BESIDE = ("dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json")


@dataclass(frozen=True)
class Row:
    """One record: its fields, its position (`reviews.csv:12`), its file's split and folder."""

    fields: dict[str, Any]
    where: str
    split: str
    folder: Path = Path()


def _pyarrow(path: Path) -> Any:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow: pip install 'marpress[tables]', or export it as CSV"
        ) from error
    return pyarrow


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Records of one file with their line or row number."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        csv.field_size_limit(1 << 30)
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
            start = 2
            for record in reader:
                yield record, start
                start = reader.line_num + 1
    elif suffix in (".jsonl", ".json"):
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from error
                if not isinstance(record, dict):
                    raise DataError(f"{path}:{number}: each line must be a JSON object")
                yield record, number
    else:
        yield from _arrow_records(path, suffix == ".parquet")


def _arrow_records(path: Path, parquet: bool) -> Iterator[tuple[dict[str, Any], int]]:
    """Records of a Parquet or Arrow file; cells of pictures become `Cell`s."""
    arrow = _pyarrow(path)
    if parquet:
        file = arrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        pictures = [field.name for field in schema if _holds_pictures(field.type)]
        table = file.read(columns=[name for name in schema.names if name not in pictures])
        ends = [0]
        for group in range(file.num_row_groups):
            ends.append(ends[-1] + file.metadata.row_group(group).num_rows)
        cells: dict[str, Any] = {name: _ParquetColumn(path, name, ends) for name in pictures}
        rows = file.metadata.num_rows
    else:
        source = arrow.memory_map(str(path))  # stays open: cells are read from it later
        try:
            table = arrow.ipc.open_stream(source).read_all()
        except arrow.ArrowInvalid:
            table = arrow.ipc.open_file(source).read_all()
        pictures = [field.name for field in table.schema if _holds_pictures(field.type)]
        cells = {name: _ArrowColumn(table.column(name)) for name in pictures}
        rows, table = table.num_rows, table.drop_columns(pictures)
    plain = table.to_pylist() if table.num_columns else [{}] * rows
    for row, record in enumerate(plain):
        held = {name: Cell(path, column, row) for name, column in cells.items()}
        yield {**record, **held}, row + 1


def _holds_pictures(kind: Any) -> bool:
    """Whether an Arrow type is bytes, or Hugging Face's struct of `bytes` and `path`."""
    return str(kind) in ("binary", "large_binary") or str(kind).startswith("struct<bytes: ")


@dataclass(frozen=True)
class Cell:
    """A picture in a table: read when asked."""

    file: Path
    column: Callable[[int], Any]
    row: int

    @property
    def name(self) -> str:
        """Where it lies, for messages."""
        return f"{self.file}:{self.row + 1}"

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""
        value = self.column(self.row)
        stored: object = value
        path = None
        if isinstance(value, dict):
            stored, path = value.get("bytes"), value.get("path")
        if stored is None and path:
            return Path(self.file.parent, str(path)).read_bytes()
        if not isinstance(stored, bytes):
            raise OSError(f"{self.name} holds no picture")
        return stored


class _ArrowColumn:
    """Values of a memory-mapped column."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __call__(self, row: int) -> Any:
        return self.column[row].as_py()


class _ParquetColumn:
    """Values of a column of a Parquet file, which is read one row group at a time."""

    def __init__(self, path: Path, name: str, ends: list[int]) -> None:
        self.path, self.name, self.ends = path, name, ends
        self.group = -1
        self.values: Any = None

    def __call__(self, row: int) -> Any:
        group = bisect.bisect_right(self.ends, row) - 1
        if group != self.group or self.values is None:
            file = _pyarrow(self.path).parquet.ParquetFile(self.path)
            self.values = file.read_row_group(group, columns=[self.name]).column(0)
            self.group = group
        return self.values[row - self.ends[group]].as_py()


def _files(path: Path) -> list[tuple[Path, str]]:
    """Data files with the split in their name or folder; "" if there is none."""
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path}: not one of {', '.join(SUFFIXES)}")
        return [(path, "")]
    if not path.is_dir():
        raise DataError(f"{path} is neither a file nor a folder")
    data_files = []
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES):
        if file.name in _BESIDE:
            continue
        if file.name.startswith("cache-"):
            continue
        words = [*file.relative_to(path).parts[:-1], file.stem.split("-")[0].split(".")[0]]
        names = [ALIASES.get(word.lower(), word.lower()) for word in words]
        data_files.append((file, next((name for name in names if name in SPLITS), "")))
    if not data_files:
        raise DataError(f"{path} holds no file of {', '.join(SUFFIXES)}")
    if len({bool(split) for _, split in data_files}) > 1:
        odd = next(file for file, split in data_files if not split)
        raise DataError(f"{odd}: the others are named train, validation or test, this one is not")
    return data_files


def class_names(path: Path, label: str) -> list[str]:
    """Names of integer labels, from the metadata that Hugging Face stores beside the data."""
    for file in sorted(path.rglob("dataset_info.json")) if path.is_dir() else []:
        try:
            features = json.loads(file.read_text(encoding="utf-8")).get("features") or {}
            names = (features.get(label) or {}).get("names")
        except (OSError, ValueError, AttributeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        if isinstance(names, list):
            return [str(name) for name in names]
    return []


def read_rows(path: Path, split: str | None) -> list[Row]:
    """All records; `split` names a column that holds train, validation or test.

    Raises:
        DataError: unreadable, not UTF-8, or an unknown split.
    """
    rows = []
    for file, file_split in _files(path):
        try:
            for fields, number in _records(file):
                where = f"{file.name}:{number}"
                part = file_split
                if split is not None:
                    written = str(fields.get(split) or "").strip().lower()
                    part = ALIASES.get(written, written)
                    if part not in SPLITS:
                        raise DataError(f"{where}: {split} is {written!r}, not {', '.join(SPLITS)}")
                rows.append(Row(fields, where, part, file.parent))
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}") from error
        except (OSError, csv.Error, ValueError) as error:  # of pyarrow: ArrowInvalid is one
            raise DataError(f"{file} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{path} holds no records")
    return rows


def natural(word: str) -> tuple[bool, float, str]:
    """Numbers by value, before words."""
    try:
        return False, float(word), word
    except ValueError:
        return True, 0.0, word
