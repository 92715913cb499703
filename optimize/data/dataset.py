"""What every data set offers, and the data set whose splits are tensors."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Sample(NamedTuple):
    """One held-out input as a client sends it, for the live check after deployment."""

    file: str
    content: bytes
    label: str


class Data(Protocol):
    """What the pipeline asks of a data set of any task; all else is between task and data.

    Splits are `train`, `validation` (for every decision) and `test` (used once, for the report),
    and others where task and data agree on them.
    """

    @property
    def name(self) -> str:
        """The data set's."""

    @property
    def source(self) -> str:
        """Where it was read from."""

    @property
    def labels(self) -> list[str]:
        """Names of the classes; none where there are no classes."""

    @property
    def notes(self) -> list[str]:
        """What a reader of the report should know about it."""

    @property
    def agreement_split(self) -> str:
        """The split on which the compressed model is compared with the original."""

    def count(self, split: str) -> int:
        """Samples in a split; 0 where there is none."""

    def fingerprint(self) -> str:
        """SHA-256 of all that was loaded: changes when the data change."""


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
    `samples` are real encoded test inputs for the live check.
    """

    name: str
    source: str
    labels: list[str]
    test: Split
    train: Split | None = None
    validation: Split | None = None
    calibration: Tensor | None = None
    agreement: Tensor | None = None
    samples: list[Sample] = field(default_factory=list)
    card_input: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def agreement_split(self) -> str:
        """`agreement` where there are inputs for it, else `test`."""
        return "test" if self.agreement is None else "agreement"

    def count(self, split: str) -> int:
        """Samples in a split; 0 where there is none."""
        part: Split | Tensor | None = getattr(self, split)
        return len(part) if part is not None else 0

    def fingerprint(self) -> str:
        """SHA-256 over the shapes and bytes of all splits: changes when the data changes."""
        digest = hashlib.sha256()
        for split in (self.train, self.validation, self.test):
            if split is not None:
                for tensor in (split.inputs, split.targets):
                    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                    digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
