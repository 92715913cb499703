"""ExecuTorch programs (.pte) for XNNPACK; int8 through PT2E quantization."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from optimize.export.formats import pt2e
from optimize.export.formats.interface import FLOAT32, INT8, Array, Run
from optimize.export.formats.xnnpack import clamped
from optimize.export.subject import Inputs, Subject
from optimize.utils.parameters import by_parameter

EXTRA = "executorch"
MODULES = ("executorch", "torchao")
PACKAGES = ("executorch", "torchao")
PRECISIONS = {"float32": FLOAT32, "int8": INT8}
_ATTENTION = ("aten.softmax.int", "aten.scaled_dot_product_attention.default")


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.pte`."""
    return f"{subject}.pte"


def _dims(subject: Subject) -> tuple[dict[int, Any], ...]:
    """Dynamic shapes for `torch.export`: the first axis alone, bounded.

    Memory is planned for the largest size. The bound is one higher, because the bound itself is
    excluded. XNNPACK supports only one dynamic dimension, so the others are fixed.
    """
    first = next(iter(subject.axes), "")
    named = {}
    if first:
        axis = subject.axes[first]
        named[first] = torch.export.Dim(first, min=axis.least, max=axis.most + 1)
    return tuple(
        {dim: named[name] for dim, name in dims.items() if name == first}
        for dims in subject.dynamic
    )


def _fixed(subject: Subject, piece: Inputs) -> Inputs:
    """Inputs with every axis but the first padded with zeros to its largest size."""
    first = next(iter(subject.axes), "")
    padded = []
    for tensor, dims in zip(piece, subject.dynamic, strict=True):
        shape = [
            subject.axes[dims[i]].most if i in dims and dims[i] != first else size
            for i, size in enumerate(tensor.shape)
        ]
        padded.append(_pad(tensor, shape))
    return tuple(padded)


def _pad(tensor: torch.Tensor, shape: list[int]) -> torch.Tensor:
    sides = [
        side
        for size, target in zip(reversed(tensor.shape), reversed(shape), strict=True)
        for side in (0, target - size)
    ]
    return torch.nn.functional.pad(tensor, sides) if any(sides) else tensor


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `interface.Format`."""
    with pt2e.quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        dims = _dims(subject)
        module = subject.module if precision == "float32" else quantize(subject, dims)
        example = _fixed(subject, subject.pieces[0])
        shapes = by_parameter(module, dims)
        program = torch.export.export(module, example, dynamic_shapes=shapes)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def quantize(subject: Subject, dims: tuple[dict[int, Any], ...]) -> torch.nn.Module:
    """Int8 for XNNPACK, weights per channel. Static; for models with attention, dynamic and only
    the linear layers, because the error of static int8 was ten times larger."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )

    example = _fixed(subject, subject.pieces[0])
    shapes = by_parameter(subject.module, dims)
    program = torch.export.export(subject.module, example, dynamic_shapes=shapes)
    if any(str(node.target) in _ATTENTION for node in program.graph.nodes):
        settings = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=True)
        quantizer = XNNPACKQuantizer().set_module_type(torch.nn.Linear, settings)
    else:
        settings = get_symmetric_quantization_config(is_per_channel=True)
        quantizer = clamped(XNNPACKQuantizer().set_global(settings))
    return pt2e.quantize(
        program, quantizer, [_fixed(subject, piece) for piece in subject.calibration]
    )


def load(path: Path) -> Run:
    """The file in ExecuTorch's runtime."""
    with pt2e.quiet():
        from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    assert method is not None

    metadata = method.metadata
    shapes = [list(metadata.input_tensor_meta(i).sizes()) for i in range(metadata.num_inputs())]

    def run(*arrays: Array) -> list[Array]:
        outputs = method.execute(
            [
                _pad(torch.from_numpy(array), [len(array), *shape[1:]]) if shape else array
                for array, shape in zip(arrays, shapes, strict=True)
            ]
        )
        return [tensor.clone().numpy() for tensor in outputs]

    return run


def operators(path: Path) -> dict[str, int]:
    """Operators and delegates by name; `quantized` counts XNNPACK's quantized values."""
    with pt2e.quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        loaded: Any = deserialize_pte_binary(path.read_bytes())
    program = getattr(loaded, "program", loaded)
    counts: Counter[str] = Counter()
    for plan in program.execution_plan:
        counts.update(op.name for op in plan.operators)
        counts.update(delegate.id for delegate in plan.delegates)
    quantized = sum(_quantized(entry.data) for entry in program.backend_delegate_data)
    return {**counts, "quantized": quantized}


def _quantized(blob: bytes) -> int:
    """Number of quantized values in a delegate's graph, read with ExecuTorch's schema."""
    from executorch.backends.xnnpack import serialization
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(bytes(blob[: XNNHeader.EXPECTED_LENGTH]))
    start = header.flatbuffer_offset
    graph = bytes(blob[start : start + header.flatbuffer_size])
    schema = Path(serialization.__path__[0]) / "schema.fbs"
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "graph.bin"
        source.write_bytes(graph)
        _flatc_decompile(scratch, str(schema), str(source), ["--raw-binary"])
        return source.with_suffix(".json").read_text().count("XNNQuantizedTensorValue")
