"""AOTInductor packages (.pt2): C++ compiled for this machine's processor, loaded by torch.

Exporting needs a C++ compiler, and the file runs only on processors with the same instruction
sets. Int8 uses PT2E quantization and oneDNN's kernels.
"""

import logging
import os
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from optimize.evaluation.session import served
from optimize.export.formats import pt2e
from optimize.export.formats.interface import FLOAT32, INT8, Run, arrays
from optimize.export.subject import Subject

EXTRA = "aoti"
MODULES = ("torchao",)
PACKAGES = ("torchao",)
PRECISIONS = {"float32": FLOAT32, "int8": INT8}


def compiler() -> bool:
    """Whether there is a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.pt2`."""
    return f"{subject}.pt2"


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `interface.Format`."""
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    with torch.no_grad(), pt2e.quiet():
        module = subject.module if precision == "float32" else quantize(subject)
        shapes = subject.unbounded(module)
        program = torch.export.export(module, subject.pieces[0], dynamic_shapes=shapes)
        # Only frozen weights are packed for oneDNN's int8 kernels; others are dequantized.
        with torch._inductor.config.patch(freezing=precision == "int8"):
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))


def quantize(subject: Subject) -> nn.Module:
    """Static int8: unsigned activations per tensor, weights per channel.

    Convolutions of one channel stay in float: with a dynamic batch inductor assumes a wrong layout
    for their outputs.
    """
    from torchao.quantization.pt2e.inductor_passes import x86  # noqa: F401  registers fusions
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86_quantizer

    settings = x86_quantizer.get_default_x86_inductor_quantization_config()
    quantizer = x86_quantizer.X86InductorQuantizer().set_global(settings)
    for name, module in subject.module.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 1:
            quantizer.set_module_name_qconfig(name, None)
    program = torch.export.export(
        subject.module, subject.pieces[0], dynamic_shapes=subject.unbounded()
    )
    return pt2e.quantize(program, quantizer, subject.calibration)


def load(path: Path) -> Run:
    """The file in AOTInductor's runtime, loaded as the handlers load it."""
    return arrays(served(path))


def operators(path: Path) -> dict[str, int]:
    """Kernels of the generated wrapper by name; `quantized` counts oneDNN's int8 ones."""
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(path) as package:
        for name in package.namelist():
            if name.endswith("wrapper.cpp"):
                text = package.read(name).decode(errors="replace")
                counts.update(re.findall(r"aoti_torch_\w+", text))
    quantized = sum(counts[name] for name in counts if re.search("__q(conv|linear)", name))
    return {**counts, "quantized": quantized}
