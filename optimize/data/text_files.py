"""A user's own labelled texts: CSV, TSV, JSON lines, Parquet, a folder of these, or a folder
that Hugging Face `datasets` saved."""

import csv
import importlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimize.data import text_dataset
from optimize.data.corpus import SPLITS, Corpus, TextDataset
from optimize.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow")
_ALIASES = {"dev": "validation", "valid": "validation", "val": "validation"}
# The fewest texts of a label that can be split.
_FEWEST = 4


@dataclass(frozen=True)
class Row:
    """One record: its fields, its position (`reviews.csv:12`), and its file's split."""

    fields: dict[str, Any]
    where: str
    split: str


def _pyarrow(path: Path) -> Any:
    try:
        pyarrow: Any = importlib.import_module("pyarrow")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow: pip install pyarrow, or export it as CSV"
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
    elif suffix == ".parquet":
        table = _pyarrow(path).parquet.read_table(path)
        yield from ((record, number) for number, record in enumerate(table.to_pylist(), 1))
    else:
        arrow = _pyarrow(path)
        with arrow.memory_map(str(path)) as source:
            try:
                table = arrow.ipc.open_stream(source).read_all()
            except arrow.ArrowInvalid:
                table = arrow.ipc.open_file(source).read_all()
            yield from ((record, number) for number, record in enumerate(table.to_pylist(), 1))


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
        if file.name in ("dataset_info.json", "state.json", "dataset_dict.json"):
            continue
        if file.name.startswith("cache-"):
            continue
        words = [*file.relative_to(path).parts[:-1], file.stem.split("-")[0].split(".")[0]]
        names = [_ALIASES.get(word.lower(), word.lower()) for word in words]
        data_files.append((file, next((name for name in names if name in SPLITS), "")))
    if not data_files:
        raise DataError(f"{path} holds no file of {', '.join(SUFFIXES)}")
    if len({bool(split) for _, split in data_files}) > 1:
        odd = next(file for file, split in data_files if not split)
        raise DataError(f"{odd}: the others are named train, validation or test, this one is not")
    return data_files


def _class_names(path: Path, label: str) -> list[str]:
    """Names of integer labels, from the metadata that Hugging Face stores beside the data."""
    for file in sorted(path.rglob("dataset_info.json")) if path.is_dir() else []:
        features = json.loads(file.read_text(encoding="utf-8")).get("features") or {}
        names = (features.get(label) or {}).get("names")
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
                    part = _ALIASES.get(written, written)
                    if part not in SPLITS:
                        raise DataError(f"{where}: {split} is {written!r}, not {', '.join(SPLITS)}")
                rows.append(Row(fields, where, part))
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8: {error}") from error
        except (OSError, csv.Error) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{path} holds no records")
    return rows


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list | tuple) else [value]
    return [str(v).strip() for v in values if v is not None and str(v).strip()]


def _row_labels(row: Row, column: str, names: dict[str, str], separator: str | None) -> list[str]:
    """The names of a row's labels: any number with a `separator`, exactly one without."""
    value = row.fields.get(column)
    if separator is not None and isinstance(value, str):
        value = value.split(separator)
    labels = _words(value)
    if separator is None and not labels:
        raise DataError(f"{row.where}: {column} is empty; label the row or leave it out")
    if separator is None and len(labels) > 1:
        raise DataError(f"{row.where}: {len(labels)} labels; say multi_label: true if so")
    if not names:
        return labels
    unknown = next((word for word in labels if word not in names), None)
    if unknown is not None:
        options = ", ".join(names)
        raise DataError(f"{row.where}: label {unknown!r} is not in the label map ({options})")
    return [names[word] for word in labels]


def _check_counts(
    counts: Counter[str],
    rows: list[Row],
    labelled: list[list[str]],
    column: str,
    multi_label: bool,
) -> None:
    """Refuse data without labels, with one class only, or with too few rows of a label."""
    first, last = rows[0].where, rows[-1].where
    if not counts:
        raise DataError(f"{first}: {column} is empty here and in every other row")
    if len(counts) < 2 and not multi_label:
        only = next(iter(counts))
        raise DataError(
            f"{first} to {last}: every row is labelled {only!r}; a classifier needs two classes"
        )
    rare = min(counts, key=lambda word: counts[word])
    if counts[rare] < _FEWEST:
        at = next(row.where for row, labels in zip(rows, labelled, strict=True) if rare in labels)
        raise DataError(
            f"{at}: label {rare!r} has {counts[rare]} of {len(rows)} rows, it takes {_FEWEST} to "
            "split; bring more or leave it out"
        )


def to_corpus(
    rows: list[Row],
    text: str,
    label: str,
    *,
    names: dict[str, str] | None = None,
    multi_label: bool = False,
    separator: str = ";",
) -> Corpus:
    """Check every row and collect texts and labels.

    Raises:
        DataError: naming the row: no such column, no text, no label, one class only.
    """
    first = rows[0]
    for column in (text, label):
        if column not in first.fields:
            columns = ", ".join(str(name) for name in first.fields)
            raise DataError(f"{first.where}: no column {column!r}; there are {columns}")
    names = {str(key): str(value) for key, value in (names or {}).items()}
    texts: list[str] = []
    labelled: list[list[str]] = []
    for row in rows:
        content = row.fields.get(text)
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{row.where}: {text} holds no text; leave the row out")
        texts.append(content)
        labelled.append(_row_labels(row, label, names, separator if multi_label else None))
    counts = Counter(word for row_labels in labelled for word in row_labels)
    _check_counts(counts, rows, labelled, label, multi_label)
    order = list(dict.fromkeys(names.values())) if names else sorted(counts, key=_natural)
    labels = [word for word in order if word in counts]
    place = {word: position for position, word in enumerate(labels)}
    return Corpus(
        texts,
        [tuple(sorted({place[word] for word in row_labels})) for row_labels in labelled],
        labels,
        ["texts"] * len(texts),
        [row.split for row in rows] if rows[0].split else [],
        multi_label,
    )


def _natural(word: str) -> tuple[bool, float, str]:
    """Numbers by value, before words."""
    try:
        return False, float(word), word
    except ValueError:
        return True, 0.0, word


def load(
    path: str,
    text: str = "text",
    label: str = "label",
    split: str | None = None,
    labels: dict[str, str] | None = None,
    multi_label: bool = False,
    separator: str = ";",
    metric: str = "accuracy",
    limit: int = 0,
    test: float = 0.1,
    validation: float = 0.05,
    max_length: int = 128,
    encoder: str | None = None,
    seed: int = 0,
) -> TextDataset:
    """A user's texts, without near duplicates.

    Args:
        path: a file, or a folder with files (or folders) named train, validation and test.
        text, label: names of columns.
        split: column that holds train, validation or test, if the files are not split.
        labels: label map, from a value of the column to the label's name.
        multi_label: a text has any number of labels: a list, or words between `separator`.
        separator: see `multi_label`.
        metric: the gate's metric: accuracy, macro_f1 or auroc.
        limit: number of texts to keep, drawn at random; 0 keeps all.
        test, validation: shares of the texts in these splits, if the data are not split.
        max_length: tokens of a window.
        encoder: Hugging Face folder of the model, whose tokenizer is used.
        seed: of the splits.

    Raises:
        DataError: names the first row that is wrong.
    """
    place = Path(path).expanduser()
    rows = read_rows(place, split)
    if labels is None and (class_names := _class_names(place, label)):
        labels = {str(position): name for position, name in enumerate(class_names)}
    corpus = to_corpus(
        rows, text, label, names=labels, multi_label=multi_label, separator=separator
    )
    return text_dataset.build(
        corpus,
        name=place.stem,
        source=str(place),
        limit=limit,
        test=test,
        validation=validation,
        max_length=max_length,
        encoder=encoder,
        metric=metric,
        seed=seed,
    )
