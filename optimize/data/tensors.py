"""Named tensors, split once: the data set of models that are no classifier of pictures or texts.

Trees of arrays are flattened by the rule of `optimize.utils.trees`: `image`, `boxes.0`, `meta.age`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimize.data.tables import ALIASES, SPLITS
from optimize.errors import DataError
from optimize.utils import trees

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Rows of one split: inputs and targets `[N, ...]`, in the order of the data set's names."""

    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: slice | Tensor) -> "Rows":
        return Rows(tuple(t[index] for t in self.inputs), tuple(t[index] for t in self.targets))


@dataclass(frozen=True)
class TensorData:
    """Named inputs and targets by split.

    Attributes:
        name, source: of the data set.
        inputs, targets: names, in order.
        splits: rows by split; there is a test split.
        dynamic_axes: dimensions beyond the first that a request chooses, by input: from the
            dimension to its name, as in `torch.onnx.export`.
        labels: names of the classes of the first target, if these are words in the data.
        notes: remarks.
    """

    name: str
    source: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    splits: dict[str, Rows]
    dynamic_axes: dict[str, dict[int, str]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def split(self, name: str) -> Rows:
        """Rows of a split. Raises DataError if there are none."""
        rows = self.splits.get(name)
        if rows is None or not len(rows):
            raise DataError(f"data set {self.name} has no {name} split, and this recipe needs one")
        return rows

    def count(self, split: str) -> int:
        """Rows in a split; 0 if there is no such split."""
        return len(self.splits[split]) if split in self.splits else 0

    def fingerprint(self) -> str:
        """SHA-256 of all tensors with their names, shapes and dtypes."""
        digest = hashlib.sha256(repr((self.inputs, self.targets, self.dynamic_axes)).encode())
        for split, rows in sorted(self.splits.items()):
            for tensor in (*rows.inputs, *rows.targets):
                digest.update(f"{split}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def flatten(value: Any, root: str) -> dict[str, Any]:
    """Arrays by name, see `optimize.utils.trees`; lists of numbers are arrays."""
    return trees.flatten(value, root, lambda item: isinstance(item, list) and not _is_tree(item))


def _is_tree(value: list[Any]) -> bool:
    return any(isinstance(item, Tensor | np.ndarray | Mapping | tuple) for item in value)


def to_tensor(value: Any, name: str, where: str) -> Tensor:
    """An array of numbers as a tensor; float64 becomes float32, unsigned numbers int64.

    Raises:
        DataError: it is something else, ragged, or holds NaN or infinity.
    """
    try:
        array = value.numpy(force=True) if isinstance(value, Tensor) else value
        if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
            tensor = value
        else:
            array = np.asarray(array)
            if array.dtype in (np.uint16, np.uint32, np.uint64):
                array = array.astype(np.int64)
            tensor = torch.from_numpy(np.ascontiguousarray(array))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where}: {name} is no array of numbers ({error})") from error
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    if tensor.dtype not in DTYPES:
        raise DataError(f"{where}: {name} is {tensor.dtype}: give booleans, integers or floats")
    if not tensor.dim():
        raise DataError(f"{where}: {name} is a single number: the first dimension counts rows")
    if not tensor.isfinite().all():
        raise DataError(
            f"{where}: {name} holds NaN or infinity: fill or leave out such rows, as the server "
            "refuses them too"
        )
    return tensor


def data_set(
    parts: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    source: str,
    inputs: Sequence[str] | None = None,
    targets: Sequence[str] = (),
    test: float = 0.2,
    validation: float = 0.1,
    seed: int = 0,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
    labels: list[str] | None = None,
) -> TensorData:
    """A data set of arrays by split and name.

    Args:
        parts: from a split (`train`, `validation`, `test`; "" for rows that are to be split) to
            arrays `[N, ...]` by name.
        name, source: of the data set.
        inputs: names of the model's inputs in order; by default all that are no targets.
        targets: names of the targets in order.
        test, validation: shares of the rows in these splits, if there is no test split.
        seed: of that split.
        dynamic_axes, labels: see `TensorData`.

    Raises:
        DataError: a name is missing, arrays differ in rows, or hold something else than numbers.
    """
    parts = {ALIASES.get(split.lower(), split.lower()): part for split, part in parts.items()}
    unknown = [split for split in parts if split not in ("", *SPLITS)]
    if unknown or not parts:
        raise DataError(f"{name}: splits are {', '.join(SPLITS)}, not {', '.join(unknown)}")
    first = next(iter(parts.values()))
    wanted = [n for n in first if n not in targets] if inputs is None else list(inputs)
    if not wanted:
        raise DataError(f"{name}: no array is left for the model's input")
    splits = {split: _rows(part, wanted, targets, name, split) for split, part in parts.items()}
    notes = []
    if "" in splits:
        whole = splits.pop("")
        splits |= _drawn(whole, test, validation, seed)
        notes.append(f"test split drawn with seed {seed}: {test:g} of the rows")
    elif "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("there is no test split: the validation split is used as the test split")
    if "test" not in splits:
        raise DataError(f"{name} has no test split: name one, or give the rows unsplit")
    axes = _axes(dynamic_axes or {}, wanted, splits["test"], name)
    _check_alike(splits, [*wanted, *targets], {n: set(a) for n, a in axes.items()}, name)
    return TensorData(
        name, source, tuple(wanted), tuple(targets), splits, axes, labels or [], notes
    )


def _rows(
    part: Mapping[str, Any], inputs: Sequence[str], targets: Sequence[str], name: str, split: str
) -> Rows:
    where = f"{name}: {split}" if split else name
    for wanted in (*inputs, *targets):
        if wanted not in part:
            raise DataError(f"{where} has no {wanted!r}; it has {', '.join(part) or 'nothing'}")
    tensors = {n: to_tensor(part[n], n, where) for n in (*inputs, *targets)}
    counts = {n: len(tensor) for n, tensor in tensors.items()}
    if len(set(counts.values())) != 1:
        raise DataError(f"{where}: the arrays differ in their number of rows: {counts}")
    if not counts[inputs[0]]:
        raise DataError(f"{where} is empty")
    return Rows(tuple(tensors[n] for n in inputs), tuple(tensors[n] for n in targets))


def _drawn(whole: Rows, test: float, validation: float, seed: int) -> dict[str, Rows]:
    if not 0 < test < 1 or not 0 <= validation < 1 - test:
        raise DataError("test and validation are shares of the rows, below 1 together")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    first = max(1, round(test * len(whole)))
    second = first + round(validation * len(whole))
    index = {"train": order[second:], "validation": order[first:second], "test": order[:first]}
    return {split: whole[chosen] for split, chosen in index.items() if len(chosen)}


def _axes(
    given: Mapping[str, Mapping[int, str]], inputs: Sequence[str], rows: Rows, name: str
) -> dict[str, dict[int, str]]:
    ranks = {n: t.dim() for n, t in zip(inputs, rows.inputs, strict=True)}
    for which, axes in given.items():
        if which not in ranks:
            raise DataError(f"{name}: dynamic_axes names {which!r}; inputs are {', '.join(inputs)}")
        if not isinstance(axes, Mapping) or any(
            not isinstance(axis, int) or not 0 < axis < ranks[which] for axis in axes
        ):
            raise DataError(
                f"{name}: dynamic_axes of {which} is a mapping from a dimension, 1 to "
                f"{ranks[which] - 1} (the first is always free), to its name, as in {{1: time}}"
            )
    return {n: {int(k): str(v) for k, v in axes.items()} for n, axes in given.items()}


def _check_alike(
    splits: Mapping[str, Rows], names: Sequence[str], free: Mapping[str, set[int]], name: str
) -> None:
    """Refuse splits whose arrays differ in shape or dtype."""
    seen: dict[str, Any] = {}
    for split, rows in splits.items():
        for which, tensor in zip(names, (*rows.inputs, *rows.targets), strict=True):
            dims = enumerate(tensor.shape[1:], 1)
            shape = [None if d in free.get(which, ()) else size for d, size in dims]
            if seen.setdefault(which, (shape, tensor.dtype)) != (shape, tensor.dtype):
                raise DataError(
                    f"{name}: {which} is {tensor.dtype} {shape} in {split}, and "
                    f"{seen[which][1]} {seen[which][0]} in another split"
                )
