"""The interface of an export format, and the limits of its check.

Each format is a module of this package: a few constants and four functions, see `Format`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import torch

from optimize.export.subject import Subject

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]
"""A file as a function, from arrays in the order of the subject's inputs to its outputs."""


@dataclass(frozen=True)
class Limits:
    """How far an exported file may differ from the PyTorch module.

    Attributes:
        error: largest norm of a row's difference from the module's answer, over the usual norm of
            an answer. Quantization noise is 0.02 to 0.2, an answer unrelated to the input 1.4.
            This limit separates noise from errors; `agreement` and `drop` limit what noise costs.
        agreement: least share of samples on which file and module agree.
        drop: largest loss in the metric against the module (0.01 is one point).
        quantized: the file must hold quantized operators or weights.
    """

    error: float = 1e-3
    agreement: float = 0.995
    drop: float = 0.002
    quantized: bool = False


FLOAT32 = Limits()
FLOAT16 = Limits(error=2e-2, agreement=0.99, drop=0.005)
INT8 = Limits(error=0.35, agreement=0.85, drop=0.01, quantized=True)


class Format(Protocol):
    """What every format module has."""

    EXTRA: str  # `make extras-EXTRA` installs what it needs
    MODULES: tuple[str, ...]  # top-level modules that must be importable
    PACKAGES: tuple[str, ...]  # distributions whose versions go into the report
    PRECISIONS: dict[str, Limits]  # by name; files of the first have no suffix

    def file(self, artifact: str, subject: str) -> str:
        """Path of a subject's file or folder within the format's folder."""

    def export(self, subject: Subject, path: Path, precision: str) -> None:
        """Write `path`. Errors of the converter are not caught."""

    def load(self, path: Path) -> Run:
        """The file as a function, in the format's runtime, on one thread."""

    def operators(self, path: Path) -> dict[str, int]:
        """Count of each operator in the file; `quantized` is the count of int8 ones."""


def arrays(predict: Callable[..., Any]) -> Run:
    """Turn a function of tensors into one of arrays."""

    def run(*inputs: Array) -> list[Array]:
        outputs = predict(*(torch.from_numpy(array) for array in inputs))
        return [t.numpy() for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

    return run
