"""ONNX for ONNX Runtime: opset 20, dynamic axes, one file; int8 as QDQ or dynamic."""

import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from optimize.evaluation.session import served
from optimize.export.formats.interface import FLOAT32, INT8, Array, Run, arrays
from optimize.export.subject import Subject

EXTRA = "onnx"
MODULES = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PRECISIONS = {"float32": FLOAT32, "int8": INT8}
OPSET = 20
MATRICES = ("MatMul", "Gemm", "Gather")


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.onnx`."""
    return f"{subject}.onnx"


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `interface.Format`."""
    if precision == "float32":
        write(subject.module, subject, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "float.onnx"
        write(subject.module, subject, plain)
        quantize(subject, plain, path)


def write(module: nn.Module, subject: Subject, path: Path) -> None:
    """Export through torch.export, with all axes dynamic."""
    # It warns that torchvision is not installed, which is not needed here.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnxscript's own deprecations
        torch.onnx.export(
            module,
            subject.pieces[0],
            str(path),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(subject.inputs),
            output_names=list(subject.outputs),
            dynamic_shapes=subject.unbounded(),
            external_data=False,
            verbose=False,
        )


class _Reader:
    """Calibration inputs for ONNX Runtime, one mapping after another."""

    def __init__(self, subject: Subject) -> None:
        self._items: Iterator[dict[str, Array]] = iter(
            [
                {name: t.numpy() for name, t in zip(subject.inputs, piece, strict=True)}
                for piece in subject.calibration
            ]
        )

    def get_next(self) -> dict[str, Array] | None:
        """The next inputs, None at the end."""
        return next(self._items, None)


def quantize(subject: Subject, source: Path, path: Path) -> None:
    """Int8, weights per channel: QuantizeLinear/DequantizeLinear pairs, or with `dynamic`
    activations DynamicQuantizeLinear before matrix products and embeddings.

    In models with attention only matrix products and embeddings are quantized: one scale cannot
    represent a mask of minus infinity, and the sums before a layer norm have a few channels much
    larger than the others.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = source.with_name("prepared.onnx")
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    if subject.activations == "dynamic":
        quantize_dynamic(
            str(prepared),
            str(path),
            op_types_to_quantize=list(MATRICES),
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
        return
    attends = any(node.op_type == "Softmax" for node in onnx.load(str(prepared)).graph.node)
    quantize_static(
        str(prepared),
        str(path),
        _Reader(subject),
        op_types_to_quantize=["Conv", *MATRICES] if attends else None,
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def load(path: Path) -> Run:
    """The file in ONNX Runtime, loaded as the handlers load it."""
    return arrays(served(path))


def operators(path: Path) -> dict[str, int]:
    """Operators by name; `quantized` counts int8 weights and quantized activations."""
    import onnx

    counts = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    return {**counts, "quantized": counts["DequantizeLinear"] + counts["DynamicQuantizeLinear"]}
