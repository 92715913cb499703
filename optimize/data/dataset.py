"""The interface of every data set, and the data set whose splits are tensors."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Sample(NamedTuple):
    """One held-out input as a client sends it, for the check after deployment."""

    file: str
    content: bytes
    label: str


class Encoded(Protocol):
    """A held-out input as a file that a client could send."""

    @property
    def name(self) -> str:
        """Where it lies, for messages."""

    def read(self) -> bytes:
        """Its bytes. Raises OSError."""


class Data(Protocol):
    """What the pipeline needs from a data set of any task; the rest is up to task and data.

    Splits are `train`, `validation` (for all decisions) and `test` (used once, for the report),
    and others that task and data agree on.
    """

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def source(self) -> str:
        """Where the data were read from."""

    @property
    def labels(self) -> list[str]:
        """Names of the classes; empty if there are no classes."""

    @property
    def notes(self) -> list[str]:
        """Remarks about the data for readers of the report."""

    @property
    def agreement_split(self) -> str:
        """The split on which the compressed model is compared with the original."""

    def count(self, split: str) -> int:
        """Samples in a split; 0 if there is no such split."""

    def fingerprint(self) -> str:
        """SHA-256 of all loaded data: changes when the data change."""


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

    `validation` is for all decisions; `test` is used once, for the report. Without `train`
    (post-training compression) `calibration` feeds the observers. `agreement` holds unlabelled
    inputs to compare the compressed model with the original on, if there are few labelled ones;
    otherwise the test inputs are used. `samples` are encoded test inputs for the check after
    deployment.

    For images: `files` are the test pictures as files, in the order of `test`, if there are any;
    `normalization` is the mean and std in pixel units (0..255) that the recipe gives the model.
    `digest`, if there is one, stands for all samples in the fingerprint.
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
    files: Sequence[Encoded] = ()
    normalization: tuple[float | list[float], float | list[float]] | None = None
    digest: str = ""

    @property
    def agreement_split(self) -> str:
        """`agreement` if there are such inputs, else `test`."""
        return "test" if self.agreement is None else "agreement"

    def count(self, split: str) -> int:
        """Samples in a split; 0 if there is no such split."""
        part: Split | Tensor | None = getattr(self, split)
        return len(part) if part is not None else 0

    def fingerprint(self) -> str:
        """SHA-256 over all samples, and how they are prepared: changes when the data change."""
        digest = hashlib.sha256(f"{self.digest}{json.dumps(self.card_input)}".encode())
        for split in (self.train, self.validation, self.test) if not self.digest else ():
            if split is not None:
                for tensor in (split.inputs, split.targets):
                    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
                    digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
