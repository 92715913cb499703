"""What a loader returns: a data set, split once."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Inputs and integer targets of equal length: for images uint8 `[N, C, H, W]`, int64 `[N]`."""

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs, {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: slice | Tensor) -> "Split":
        return Split(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Dataset:
    """A data set, split once.

    `validation` is for every decision; `test` is used once, for the report. `train` is None
    where there is none (post-training compression): then `calibration` feeds the observers.
    `agreement` holds unlabelled inputs on which the compressed model is compared with the
    original where labelled ones are few; the test inputs serve otherwise.
    `samples` are real encoded test inputs (file name, bytes, label) for the live check.
    """

    name: str
    source: str
    labels: list[str]
    test: Split
    train: Split | None = None
    validation: Split | None = None
    calibration: Tensor | None = None
    agreement: Tensor | None = None
    samples: list[tuple[str, bytes, str]] = field(default_factory=list)
    card_input: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fingerprint(self) -> str:
        """SHA-256 over the shapes and bytes of all splits: changes when the data changes."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            if split is not None:
                for tensor in (split.inputs, split.targets):
                    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                    digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


Loader = Callable[..., Dataset]
