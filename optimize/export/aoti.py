"""AOTInductor packages (.pt2): C++ compiled for this machine's processor, loaded by torch.

Needs a C++ compiler here, and runs only where the processor has the same instruction sets.
"""

import contextlib
import logging
import os
import shutil
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import torch

from optimize.export import FLOAT32, Array, Run
from optimize.export.subject import Subject

EXTRA = "aoti"
MODULES: tuple[str, ...] = ()
PACKAGES: tuple[str, ...] = ()
PRECISIONS = {"float32": FLOAT32}
RECORDINGS = 57  # of speech: every fourth


def compiler() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.pt2`."""
    return f"{subject}.pt2"


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `optimize.export.Format`."""
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            subject.module, subject.pieces[0], dynamic_shapes=subject.unbounded()
        )
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def load(path: Path) -> Run:
    """The file through torch's loader."""
    model = torch._inductor.aoti_load_package(str(path))

    def run(*arrays: Array) -> list[Array]:
        with torch.inference_mode(), contextlib.nullcontext():
            found = model(*(torch.from_numpy(array) for array in arrays))
        return [t.numpy() for t in ([found] if isinstance(found, torch.Tensor) else found)]

    return run


def operators(path: Path) -> dict[str, int]:
    """Kernels of the generated wrapper by name."""
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(path) as package:
        for name in package.namelist():
            if name.endswith("wrapper.cpp"):
                text = package.read(name).decode(errors="replace")
                counts.update(word for word in text.split() if word.startswith("aoti_torch_"))
    return {**counts, "quantized": 0}
