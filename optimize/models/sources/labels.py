"""The labels that a trained head knows, and those of the data."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from optimize.errors import ModelError

_SHOWN = 6


@dataclass(frozen=True)
class Head:
    """What becomes of a trained head.

    Attributes:
        rows: its rows in the order of the data's labels; None if it is replaced by a new one.
        note: a line to say of it; "" for nothing.
    """

    rows: list[int] | None
    note: str = ""


def match(
    id2label: Mapping[Any, Any] | None,
    labels: Sequence[str],
    source: object,
    *,
    new_head: bool,
    rows: int | None = None,
) -> Head:
    """Which row of a trained head answers for which of the data's labels.

    Names are compared without regard to case, and to what stands between words. A head without
    names (`LABEL_0`), or one for data without (their numbers), is taken in order.

    Args:
        id2label: of the folder's `config.json`.
        labels: the data's.
        source: the folder, for messages.
        new_head: whether a new head will do, because it is trained or loaded afterwards.
        rows: of the head, where there are no names.

    Raises:
        ModelError: head and data do not fit, and `new_head` is false.
    """
    theirs = names(id2label)
    count = len(theirs) if theirs is not None else rows
    if count is not None and count != len(labels):
        known = f"{count} labels{_listed(theirs)}"
        return _replaced(source, known, labels, new_head)
    numbers = list(range(len(labels)))
    nameless = [str(label) for label in labels] == [str(number) for number in numbers]
    if theirs is None:
        if nameless:
            return Head(numbers)
        return Head(
            numbers,
            f"{source} does not name its labels: they are taken in the data's order, "
            f"{_pairs(numbers, labels)}",
        )
    places = {_plain(name): row for row, name in enumerate(theirs)}
    found = [places.get(_plain(label)) for label in labels]
    if len(places) == len(theirs) and None not in found and len(set(found)) == len(found):
        order = [row for row in found if row is not None]
        if order == numbers:
            return Head(order)
        return Head(
            order,
            f"the head of {source} is put into the data's order of labels: {_listed(labels)[2:-1]}",
        )
    if nameless:
        return Head(
            numbers,
            f"the data do not name their labels: those of {source} are taken in order, "
            f"{_pairs(numbers, theirs)}",
        )
    return _replaced(source, f"the labels {_listed(theirs)[2:-1]}", labels, new_head)


def names(id2label: Mapping[Any, Any] | None) -> list[str] | None:
    """The names in a `config.json`, by row; None where they say nothing (`LABEL_0`)."""
    if not id2label:
        return None
    by_row = {int(row): str(name) for row, name in id2label.items()}
    found = [by_row[row] for row in sorted(by_row)]
    generic = all(re.fullmatch(r"(?i)label[_ -]?\d+", name) for name in found)
    return None if generic else found


def reorder(head: nn.Module, rows: Sequence[int]) -> None:
    """Put the outputs of a linear layer or convolution into another order, in place."""
    index = torch.tensor(list(rows))
    with torch.no_grad():
        for parameter in head.parameters(recurse=False):
            values: Tensor = parameter[index].clone()
            parameter.copy_(values)


def _replaced(source: object, known: str, labels: Sequence[str], new_head: bool) -> Head:
    said = f"{source} knows {known}, the data {len(labels)}{_listed(labels)}"
    if new_head:
        return Head(None, f"{said}: its head is replaced by a new one")
    raise ModelError(
        f"{said}: its trained head would be replaced by a random one. Name the data's labels as "
        "the model does (in any order), or begin with a `train` stage"
    )


def _plain(name: object) -> str:
    return re.sub(r"[\s_\-]+", " ", str(name)).strip().casefold()


def _listed(found: Sequence[str] | None) -> str:
    if not found:
        return ""
    more = ", ..." if len(found) > _SHOWN else ""
    return f" ({', '.join(map(str, found[:_SHOWN]))}{more})"


def _pairs(rows: Sequence[int], found: Sequence[str]) -> str:
    more = ", ..." if len(rows) > _SHOWN else ""
    pairs = zip(rows[:_SHOWN], found[:_SHOWN], strict=True)
    return ", ".join(f"{row} = {name}" for row, name in pairs) + more
