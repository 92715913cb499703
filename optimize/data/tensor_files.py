"""Named arrays in files: `.npz`, `.safetensors`, tables (CSV, TSV, JSON lines, Parquet), and what
a user's `file.py:loaders` returns.

In a file of arrays a split is part of the name, `train_image`, `image_train` or `train/image`;
without one the rows are split by seed. In a table it is a column. Columns of numbers become
`[N]`, several under one name `[N, columns]`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from optimize.data.tables import ALIASES, SPLITS, SUFFIXES, Row, natural, read_rows
from optimize.data.tensors import TensorData, data_set, flatten
from optimize.errors import DataError
from optimize.models.sources.user_file import described, load_function

Array = npt.NDArray[Any]
Columns = Sequence[str] | Mapping[str, str | Sequence[str]] | None
FEATURES, TARGET, INPUT = "features", "target", "input"
TAKEN = (
    "a file .npz or .safetensors of arrays by name, a table (.csv, .tsv, .jsonl, .parquet), or "
    "path/to/file.py:function"
)
_RETURNED = (
    'arrays by name, {"image": ..., "age": ...}; a pair (inputs, targets); a Dataset or DataLoader '
    'of such pairs; or a mapping of these by split, {"train": ..., "test": ...}'
)


def load(
    file: str,
    inputs: Columns = None,
    targets: Columns = None,
    split: str | None = None,
    dynamic_axes: dict[str, dict[int, str]] | None = None,
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    folder: Path = Path(),
) -> TensorData:
    """Named tensors of a file or a function.

    Args:
        file: `TAKEN`.
        inputs: names of the model's inputs in order; by default all that are no targets. Of a
            table: columns, which make one input `features`, or columns by the input's name.
        targets: likewise; columns of a table make one target `target`, which is `[N]` for one
            column. A column of words is a class.
        split: a table's column that holds train, validation or test.
        dynamic_axes: see `TensorData`.
        test, validation: shares of the rows in these splits, if the data are not split.
        seed: of the splits.
        folder: where a relative path starts.

    Raises:
        DataError: there is no such file, name or column, or something else than numbers.
    """
    options: dict[str, Any] = {
        "test": test,
        "validation": validation,
        "seed": seed,
        "dynamic_axes": dynamic_axes,
    }
    if ":" in file:
        return _of_function(file, inputs, targets, folder, options)
    path = folder / Path(file).expanduser()
    options |= {"name": path.stem, "source": f"file {path}"}
    if path.suffix.lower() in SUFFIXES:
        return _of_table(path, inputs, targets, split, options)
    if split is not None:
        raise DataError("split names a column of a table; arrays carry it in their names")
    arrays = _arrays(path)
    return _of_arrays(_by_split(arrays), inputs, targets, options)


def _arrays(path: Path) -> dict[str, Any]:
    """Arrays of an .npz or .safetensors file by name. Raises DataError."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(str(path)))
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}: data are {TAKEN}") from error
    except Exception as error:  # safetensors raises a class of its own
        raise DataError(f"{path} cannot be read ({error})") from error
    raise DataError(f"{path}: data are {TAKEN}")


def _by_split(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arrays by split and name; all under "" if no name says a split."""
    words = {**{split: split for split in SPLITS}, **ALIASES}
    found: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        split, rest = "", name
        for word, meant in words.items():
            for mark in ("_", "/"):
                if name.startswith(word + mark):
                    split, rest = meant, name[len(word) + 1 :]
                elif name.endswith(mark + word):
                    split, rest = meant, name[: -len(word) - 1]
        found.setdefault(split, {})[rest] = array
    return found if "" not in found else {"": dict(arrays)}


def _of_arrays(
    parts: Mapping[str, Mapping[str, Any]], inputs: Columns, targets: Columns, options: Any
) -> TensorData:
    """Arrays by split; a mapping in `inputs` or `targets` renames them."""
    renamed = {
        given: name
        for columns in (inputs, targets)
        if isinstance(columns, Mapping)
        for name, given in columns.items()
        if isinstance(given, str)
    }
    parts = {
        split: {renamed.get(name, name): array for name, array in part.items()}
        for split, part in parts.items()
    }
    return data_set(
        parts,
        inputs=None if inputs is None else list(inputs),
        targets=list(targets or ()),
        **options,
    )


def _of_function(
    reference: str, inputs: Columns, targets: Columns, folder: Path, options: dict[str, Any]
) -> TensorData:
    """What `path/to/file.py:function` returns."""
    function = load_function(reference, folder)
    try:
        found = function()
        parts = _splits(found)
        named = {split: _named(part) for split, part in parts.items()}
    except DataError:
        raise
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise DataError(f"{reference} failed: {described(error)}") from error
    if targets is None and all(known for _, known in named.values()):
        targets = next(iter(named.values()))[1]
    arrays = {split: part for split, (part, _) in named.items()}
    options |= {"name": reference, "source": f"loader {reference}"}
    return _of_arrays(arrays, inputs, targets, options)


def _splits(found: Any) -> dict[str, Any]:
    if isinstance(found, Mapping):
        keys = {str(key): ALIASES.get(str(key).lower(), str(key).lower()) for key in found}
        if all(split in SPLITS for split in keys.values()):
            return {keys[str(key)]: part for key, part in found.items() if part is not None}
    return {"": found}


def _named(part: Any) -> tuple[dict[str, Any], list[str]]:
    """Arrays by name, and the names of those that are known to be targets."""
    if isinstance(part, TorchDataset | DataLoader):
        part = _collected(part)
    if isinstance(part, tuple | list) and len(part) == 2:
        inputs, targets = flatten(part[0], INPUT), flatten(part[1], TARGET)
        return {**inputs, **targets}, list(targets)
    if isinstance(part, Mapping):
        return flatten(part, INPUT), []
    raise DataError(f"a loader returned {type(part).__name__}: return {_RETURNED}")


def _collected(found: Any) -> Any:
    """All items of a Dataset or DataLoader, collated as torch does."""
    loader = found
    if not isinstance(found, DataLoader):
        if not hasattr(found, "__len__"):
            raise DataError("an iterable data set has no length: give a map-style Dataset")
        loader = DataLoader(found, batch_size=256)
    batches = list(loader)
    if not batches:
        raise DataError("a loader gave no batch")
    leaves, tree = zip(*(torch.utils._pytree.tree_flatten(b) for b in batches), strict=True)
    joined = [torch.cat([torch.as_tensor(x) for x in parts]) for parts in zip(*leaves, strict=True)]
    return torch.utils._pytree.tree_unflatten(joined, tree[0])


def _of_table(
    path: Path, inputs: Columns, targets: Columns, split: str | None, options: dict[str, Any]
) -> TensorData:
    rows = read_rows(path, split)
    wanted = _grouped(targets, TARGET)
    used = {column for columns in wanted.values() for column in columns} | {split}
    if inputs is None:
        inputs = [str(column) for column in rows[0].fields if column not in used]
    given = _grouped(inputs, FEATURES)
    labels = _labels(rows, next(iter(wanted.values()), []))
    places = {word: place for place, word in enumerate(labels)}
    parts: dict[str, dict[str, Any]] = {}
    for part in dict.fromkeys(row.split for row in rows):
        chosen = [row for row in rows if row.split == part]
        arrays = {
            name: _stacked(chosen, columns)
            for name, columns in (given | wanted).items()
            if not labels or name != next(iter(wanted), None)
        }
        if labels:
            name, (column,) = next(iter(wanted.items()))
            arrays[name] = np.array([places[str(row.fields[column])] for row in chosen])
        parts[part] = arrays
    return data_set(parts, inputs=list(given), targets=list(wanted), labels=labels, **options)


def _labels(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The classes that a single column of words names; none where it holds numbers."""
    if len(columns) != 1 or columns[0] not in rows[0].fields:
        return []
    words = sorted({str(row.fields[columns[0]] or "").strip() for row in rows}, key=natural)
    return words if "" not in words and any(natural(word)[0] for word in words) else []


def _grouped(columns: Columns, name: str) -> dict[str, list[str]]:
    """Columns by the name of the tensor that they make."""
    if isinstance(columns, Mapping):
        return {k: [v] if isinstance(v, str) else list(v) for k, v in columns.items()}
    return {name: list(columns)} if columns else {}


def _stacked(rows: Sequence[Row], columns: Sequence[str]) -> Array:
    """Numbers of some columns: float32, int64 where all are whole numbers written so; `[N]` for
    one column, else `[N, columns]`."""
    values = np.array([[_number(row, column) for column in columns] for row in rows])
    values = values.astype(np.int64 if values.dtype.kind in "iub" else np.float32)
    return values[:, 0] if len(columns) == 1 else values


def _number(row: Row, column: str) -> float | int:
    if column not in row.fields:
        there = ", ".join(str(name) for name in row.fields)
        raise DataError(f"{row.where}: no column {column!r}; there are {there}")
    value = row.fields[column]
    if isinstance(value, bool | int | float):
        return value
    text = str("" if value is None else value).strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    held = f"holds {text!r}, which is no number" if text else "is empty"
    raise DataError(
        f"{row.where}: {column} {held}: fill it or write words as numbers, one column each"
    )
