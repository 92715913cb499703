"""Splits of data sets whose splits are tensors."""

import dataclasses
from typing import TypeVar

import torch

from optimize.data.dataset import Dataset, Split
from optimize.errors import DataError

S = TypeVar("S", bound=Dataset)


def split_of(dataset: Dataset, name: str) -> Split:
    """A split of the data set, by name.

    Raises:
        DataError: there is none.
    """
    split: Split | None = getattr(dataset, name)
    if split is None or not len(split):
        raise DataError(f"data set {dataset.name} has no {name} split, and this recipe needs one")
    return split


def with_validation(dataset: S, seed: int) -> S:
    """The data set with a validation split: a tenth of the training data if it has none.

    Raises:
        DataError: it has neither.
    """
    if dataset.validation is not None:
        return dataset
    if dataset.train is None:
        raise DataError(
            f"data set {dataset.name} has no labelled split beside the test split, which is not "
            "for decisions: a search needs 'validation' or 'train'"
        )
    order = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(seed))
    count = max(1, len(order) // 10)
    validation = dataset.train[order[:count]]
    return dataclasses.replace(dataset, validation=validation, train=dataset.train[order[count:]])
