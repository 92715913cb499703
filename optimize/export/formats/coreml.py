"""Core ML ML Programs: float16, which Core ML uses by default, float32, and compressed weights.

The model is converted from a trace, because coremltools' conversion of an exported program
silently compiled an attention mask wrongly.
"""

import contextlib
import importlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from optimize.export.formats.interface import FLOAT16, FLOAT32, Array, Limits, Run
from optimize.export.subject import Inputs, Subject
from optimize.utils import torchscript

EXTRA = "coreml"
MODULES = ("coremltools", "sklearn")
PACKAGES = ("coremltools", "scikit-learn")
PRECISIONS = {
    "float16": FLOAT16,
    "float32": FLOAT32,
    "int8": Limits(error=0.1, agreement=0.95, drop=0.01, quantized=True),
    "palettized": Limits(error=0.2, agreement=0.93, drop=0.01, quantized=True),
}
RECORDINGS = 125  # of 500 in speech; each takes seconds to evaluate
TIMED = False
PROVES = (
    "evaluated on Linux operator by operator from the ML Program, float16 values rounded as in "
    "the file: this proves the operators, shapes, masks and weights that the file holds, and "
    "that nothing overflows float16 between operators; it does not prove how Apple's CPU, GPU "
    "or Neural Engine rounds within one, that a device compiles the file, or how fast it is"
)
PALETTE_BITS = 6
LARGER_BITS = 8
CHEAP_SHARE = 0.02  # of all matrices: see `_sensitive`
SMALLEST_WEIGHT = 512
CORRECTING = 32  # rows for bias correction


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.mlpackage`, a folder."""
    return f"{subject}.mlpackage"


class _FromInt32(nn.Module):
    """Takes int32 where the module takes int64, which Core ML does not have."""

    def __init__(self, module: nn.Module, types: list[torch.dtype]) -> None:
        super().__init__()
        self.module, self.types = module, types

    def forward(self, *inputs: Tensor) -> Any:
        return self.module(
            *(
                tensor.to(kind) if kind == torch.int64 else tensor
                for tensor, kind in zip(inputs, self.types, strict=True)
            )
        )


def _without_tensorflow() -> None:
    """Import coremltools without TensorFlow, which it would load needlessly."""
    if "coremltools" in sys.modules or "tensorflow" in sys.modules:
        return
    blocked: Any = sys.modules
    blocked["tensorflow"] = None
    try:
        importlib.import_module("coremltools")
    finally:
        del blocked["tensorflow"]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence coremltools' warnings that this is not a Mac."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    _without_tensorflow()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its operator cannot be converted
    try:
        with warnings.catch_warnings(), torchscript.silenced():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write the folder `path`; see `interface.Format`."""
    with _quiet():
        convolves = any(isinstance(module, nn.Conv2d) for module in subject.module.modules())
        model = convert(subject, "FLOAT32" if precision == "float32" else "FLOAT16")
        if precision in ("int8", "palettized"):
            small = compress(model, precision)
            if convolves and subject.calibration:
                from optimize.export.formats.biases import corrected

                small = corrected(small, model, _rows(subject.calibration))
            model = small
        model.save(str(path))


def _rows(calibration: list[Inputs]) -> Inputs:
    """A few calibration batches as one."""
    pieces = calibration[: max(1, CORRECTING // len(calibration[0][0]))]
    return tuple(torch.cat(tensors) for tensors in zip(*pieces, strict=True))


def supported(tensor: Tensor) -> Tensor:
    """An input in a type that Core ML has: integers as int32, all else as float32."""
    if tensor.dtype in (torch.int64, torch.int32, torch.bool):
        return tensor.to(torch.int32)
    return tensor.to(torch.float32)


def convert(subject: Subject, precision: str) -> Any:
    """A `coremltools` model with open axes, from a trace."""
    import coremltools as ct

    example = tuple(supported(tensor) for tensor in subject.pieces[0])
    module = _FromInt32(subject.module, [tensor.dtype for tensor in subject.pieces[0]]).eval()
    with torch.no_grad():
        traced = torch.jit.trace(module, example, check_trace=False)
    ranges = {
        name: ct.RangeDim(axis.least, axis.most, subject.sizes(subject.pieces[0])[name])
        for name, axis in subject.axes.items()
    }
    inputs = [
        ct.TensorType(
            name,
            [ranges[dims[i]] if i in dims else size for i, size in enumerate(tensor.shape)],
            np.int32 if tensor.dtype == torch.int32 else np.float32,
        )
        for name, tensor, dims in zip(subject.inputs, example, subject.dynamic, strict=True)
    ]
    return ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=inputs,
        outputs=[ct.TensorType(name, dtype=np.float32) for name in subject.outputs],
        compute_precision=getattr(ct.precision, precision),
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )


def compress(model: Any, precision: str) -> Any:
    """Weights as int8 per channel, or as indices into a k-means palette."""
    import coremltools.optimize.coreml as cto

    if precision == "int8":
        config: Any = cto.OpLinearQuantizerConfig(
            mode="linear_symmetric", weight_threshold=SMALLEST_WEIGHT
        )
        return cto.linear_quantize_weights(model, cto.OptimizationConfig(global_config=config))
    few, many = (
        cto.OpPalettizerConfig(mode="kmeans", nbits=bits, weight_threshold=SMALLEST_WEIGHT)
        for bits in (PALETTE_BITS, LARGER_BITS)
    )
    larger = dict.fromkeys(_sensitive(model), many)
    config = cto.OptimizationConfig(global_config=few, op_name_configs=larger)
    return cto.palettize_weights(model, config)


def _sensitive(model: Any) -> list[str]:
    """Names of the weights that need more than a palette of 64 values.

    These are small convolutions (the first ones and depthwise ones), which save little space, and
    tables that serve both as the embedding and as the output head.
    """
    operations = model._mil_program["main"].operations
    kinds: dict[str, set[str]] = {}
    for op in operations:
        holder = op.inputs.get("x" if op.op_type == "gather" else "weight")
        const = holder is not None and holder.op is not None and holder.op.op_type == "const"
        if op.op_type in ("conv", "linear", "gather") and const:
            kinds.setdefault(holder.op.name, set()).add(op.op_type)
    sizes = {op.name: op.outputs[0].val.size for op in operations if op.name in kinds}
    matrices = [name for name, uses in kinds.items() if uses & {"conv", "linear"}]
    limit = CHEAP_SHARE * sum(sizes[name] for name in matrices)
    return [
        name
        for name in matrices
        if kinds[name] >= {"gather", "linear"} or ("conv" in kinds[name] and sizes[name] < limit)
    ]


def load(path: Path) -> Run:
    """The ML Program, evaluated by `optimize.export.formats.mil`."""
    with _quiet():
        from optimize.export.formats.mil import Program

        program = Program(path)

    def run(*arrays: Array) -> list[Array]:
        return program(*arrays)

    return run


def operators(path: Path) -> dict[str, int]:
    """Operators by name; `quantized` counts compressed weights."""
    with _quiet():
        from optimize.export.formats.mil import Program

        counts = Counter(Program(path).operators())
    compressed = ("constexpr_affine_dequantize", "constexpr_lut_to_dense")
    return {**counts, "quantized": sum(counts[name] for name in compressed)}
