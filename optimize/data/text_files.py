"""A user's own labelled texts, in a table that `optimize.data.tables` reads."""

from collections import Counter
from pathlib import Path
from typing import Any

from optimize.data import text_dataset
from optimize.data.corpus import Corpus, TextDataset
from optimize.data.tables import ALIASES, SPLITS, Row, class_names, natural, read_rows
from optimize.errors import DataError

# The fewest texts of a label that can be split.
_FEWEST = 4


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
    order = list(dict.fromkeys(names.values())) if names else sorted(counts, key=natural)
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


DATA_OPTIONS = ("metric", "limit", "test", "validation", "max_length", "encoder")


def of_mapping(found: Any, name: str, *, seed: int = 0, **options: Any) -> TextDataset:
    """Texts that a user's function returned.

    Args:
        found: a pair (texts, labels), or such pairs by split.
        name: of the function.
        seed: of the split.
        options: as `load` takes them, of `DATA_OPTIONS`.

    Raises:
        DataError: it is something else, or malformed.
    """
    rows = []
    parts = found if isinstance(found, dict) else {"": found}
    parts = {ALIASES.get(str(key).lower(), str(key).lower()): part for key, part in parts.items()}
    for split, part in parts.items():
        where = f"{name}: {split}" if split else name
        pair = isinstance(part, tuple | list) and len(part) == 2
        if not pair or len(part[0]) != len(part[1]) or split not in ("", *SPLITS):
            raise DataError(
                f"{where}: return a pair (texts, labels) of equal length, or a mapping of such "
                f"pairs by {', '.join(SPLITS)}"
            )
        for number, (content, label) in enumerate(zip(*part, strict=True)):
            label = label.item() if hasattr(label, "item") else label
            rows.append(Row({"text": content, "label": label}, f"{where}[{number}]", split))
    if not rows:
        raise DataError(f"{name} returned no texts")
    corpus = to_corpus(rows, "text", "label")
    return text_dataset.build(corpus, name=name, source=f"loader {name}", seed=seed, **options)


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
    if labels is None and (names := class_names(place, label)):
        labels = {str(position): name for position, name in enumerate(names)}
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
