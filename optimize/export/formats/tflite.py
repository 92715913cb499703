"""TensorFlow Lite (LiteRT): one file with a signature per size; int8 weights and activations.

The format's shapes are fixed, so every size in `Subject.shapes` becomes a signature; all share
the weights. Inputs of other sizes are padded to the next one, and outputs cut.
"""

import contextlib
import io
import logging
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from optimize.export.formats.interface import FLOAT32, INT8, Array, Run
from optimize.export.subject import Subject

EXTRA = "tflite"
MODULES = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
PACKAGES = ("litert-torch", "ai-edge-litert", "ai-edge-quantizer", "jax", "transformers")
PRECISIONS = {"float32": FLOAT32, "int8": INT8}


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.tflite`."""
    return f"{subject}.tflite"


def signature(shape: dict[str, int]) -> str:
    """Name of the signature for a shape: `batch_8`."""
    return "_".join(f"{axis}_{size}" for axis, size in shape.items()) or "serving_default"


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `interface.Format`."""
    if precision == "float32":
        convert(subject, path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "float.tflite"
        convert(subject, plain)
        quantize(subject, plain, path)


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence the converter, which prints and logs every step."""
    logging.getLogger("ai_edge_quantizer").setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def convert(subject: Subject, path: Path) -> None:
    """Float32, all signatures."""
    with _quiet():
        import litert_torch

        converter: Any = litert_torch
        for shape in subject.shapes():
            converter = converter.signature(
                signature(shape), subject.module, subject.example(shape)
            )
        converter.convert().export(str(path))


def quantize(subject: Subject, source: Path, path: Path) -> None:
    """Int8, weights per channel: static, calibrated through every signature.

    In models with attention only matrix products and embeddings, with dynamic activations: one
    scale cannot represent a mask, and the file is a third of one with static matrix products.
    """
    attends = "SOFTMAX" in operators(source)
    with _quiet():
        from ai_edge_quantizer import quantizer, recipe

        if attends:
            work = quantizer.Quantizer(str(source), recipe.dynamic_wi8_afp32())
            work.quantize().export_model(str(path), overwrite=True)
            return
        data = {}
        for shape in subject.shapes():
            samples = []
            for piece in subject.calibration:
                padded = [
                    _fit(tensor.numpy(), example.shape)
                    for tensor, example in zip(piece, subject.example(shape), strict=True)
                ]
                samples.append({f"args_{i}": array for i, array in enumerate(padded)})
            data[signature(shape)] = samples
        work = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        result = work.quantize(work.calibrate(data))
        result.export_model(str(path), overwrite=True)


def _fit(array: Array, shape: Any) -> Array:
    """Cut or pad to a shape: rows by repeating the last one, other dimensions with zeros."""
    array = array[tuple(slice(size) for size in shape)]
    rows, *rest = [(0, target - size) for size, target in zip(array.shape, shape, strict=True)]
    array = np.pad(array, [(0, 0), *rest])
    return np.pad(array, [rows, *([(0, 0)] * len(rest))], mode="edge")


class _Signature:
    """One signature of a loaded file."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        inputs = runner.get_input_details()
        self.names = sorted(inputs, key=lambda name: int(name.rpartition("_")[2]))
        self.shapes = [tuple(inputs[name]["shape"]) for name in self.names]
        self.types = [inputs[name]["dtype"] for name in self.names]
        outputs = runner.get_output_details()
        self.outputs = sorted(outputs, key=lambda name: int(name.rpartition("_")[2]))
        self.scales = [outputs[name]["quantization"] for name in self.outputs]

    def holds(self, arrays: tuple[Array, ...]) -> bool:
        """Whether the arrays fit into its shapes, ignoring the batch."""
        return all(
            all(size <= most for size, most in zip(array.shape[1:], shape[1:], strict=True))
            for array, shape in zip(arrays, self.shapes, strict=True)
        )

    def __call__(self, arrays: tuple[Array, ...]) -> list[Array]:
        """Outputs as floats, without padded rows."""
        fitted = {
            name: _fit(array, shape).astype(kind)
            for name, array, shape, kind in zip(
                self.names, arrays, self.shapes, self.types, strict=True
            )
        }
        outputs = self.runner(**fitted)
        rows = arrays[0].shape[0]
        return [
            self._floats(outputs[name], *scale)[:rows]
            for name, scale in zip(self.outputs, self.scales, strict=True)
        ]

    @staticmethod
    def _floats(array: Array, scale: float, zero: int) -> Array:
        """Dequantize an int8 output; a float one has scale 0 and is returned unchanged."""
        return (array.astype(np.float32) - zero) * scale if scale else array


def load(path: Path) -> Run:
    """The file in the LiteRT interpreter, with XNNPACK."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    signatures = [
        _Signature(interpreter.get_signature_runner(name))
        for name in interpreter.get_signature_list()
    ]
    signatures.sort(key=lambda s: int(np.prod(s.shapes[0])))

    def run(*arrays: Array) -> list[Array]:
        fitting = [s for s in signatures if s.holds(arrays)]
        if not fitting:
            raise ValueError(f"no signature holds {[a.shape for a in arrays]}")
        rows = arrays[0].shape[0]
        smallest = next((s for s in fitting if s.shapes[0][0] >= rows), fitting[-1])
        size = smallest.shapes[0][0]
        parts = [
            smallest(tuple(array[start : start + size] for array in arrays))
            for start in range(0, rows, size)
        ]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return run


def operators(path: Path) -> dict[str, int]:
    """Operators of the first signature by name; `quantized` counts tensors of int8 weights."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    counts = Counter(op["op_name"] for op in interpreter._get_ops_details())
    int8 = sum(
        t["dtype"] == np.int8 and t["shape"].size > 1 for t in interpreter.get_tensor_details()
    )
    return {**counts, "quantized": int(int8)}
