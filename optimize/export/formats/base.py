"""Exporters, one module each: a checked file in another runtime's format, or none.

A format module is a `Format`: a few constants and four functions, imported only when the
format is asked for, because each brings a large runtime.
"""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import torch

from optimize.errors import ExtraMissing, RecipeError
from optimize.export.subject import Subject

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]
"""Arrays in the subject's order to the list of its outputs."""


@dataclass(frozen=True)
class Limits:
    """What an exported file may differ by.

    Attributes:
        error: largest norm of a row's difference from the PyTorch module's answer, over the
            usual norm of an answer. Quantization's noise lies at 0.02 to 0.2; an answer that has
            nothing to do with the input lies at 1.4. The limit parts noisy from wrong; what noise
            is worth, `agreement` and `drop` decide.
        agreement: least share of samples on which both say the same.
        drop: what the metric may lose against the PyTorch module (0.01 is one point).
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
    """What a module of this package offers."""

    EXTRA: str  # `make extras-EXTRA` installs what it needs
    MODULES: tuple[str, ...]  # top-level modules that must be importable
    PACKAGES: tuple[str, ...]  # distributions whose versions go into the report
    PRECISIONS: dict[str, Limits]  # what it can write; the first carries no suffix

    def file(self, artifact: str, subject: str) -> str:
        """Where a subject's file or folder lies inside the format's folder."""

    def export(self, subject: Subject, path: Path, precision: str) -> None:
        """Write `path`. Whatever goes wrong is raised as it comes."""

    def load(self, path: Path) -> Run:
        """The file as a function, in the format's own runtime, on one thread."""

    def operators(self, path: Path) -> dict[str, int]:
        """Operators of the file and how often each occurs; `quantized` sums the int8 ones."""


NAMES = ("onnx", "tflite", "coreml", "savedmodel", "openvino", "executorch", "aoti")


def load(name: str) -> Format:
    """The module of a format, with what it needs found to be installed, but not imported.

    Raises:
        RecipeError: there is no such format.
        ExtraMissing: a package is not installed.
    """
    if name not in NAMES:
        raise RecipeError(f"no format {name!r}; there are {', '.join(NAMES)}")
    found: Any = importlib.import_module(f"optimize.export.formats.{name}")
    missing = [m for m in found.MODULES if importlib.util.find_spec(m) is None]
    if missing:
        raise ExtraMissing(
            f"{name} needs {', '.join(missing)}, not installed here: run `make extras-"
            f"{found.EXTRA}` (or `pip install 'marpress[{found.EXTRA}]'`)"
        )
    if name == "aoti" and not found.compiler():
        raise ExtraMissing("aoti needs a C++ compiler: as root `apt-get install g++`")
    return found  # type: ignore[no-any-return]


def arrays(predict: Callable[..., Any]) -> Run:
    """A function of tensors as one of arrays."""

    def run(*inputs: Array) -> list[Array]:
        outputs = predict(*(torch.from_numpy(array) for array in inputs))
        return [t.numpy() for t in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]

    return run


def versions(form: Format) -> dict[str, str]:
    """Versions of torch and of the packages that made and ran a file."""
    return {name: importlib.metadata.version(name) for name in ("torch", *form.PACKAGES)}
