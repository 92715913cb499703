"""Bias correction for compressed Core ML models, by evaluating the file.

Rounded weights shift the mean output of every channel, and each layer's shift adds to that of the
layers before. As in Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (2019), section 4.2, but with real inputs: in one pass, layer by layer, the bias is
corrected by the difference of the means.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor

from optimize.export.formats.interface import Array
from optimize.export.formats.mil import Program
from optimize.export.subject import Inputs


def corrected(model: Any, plain: Any, inputs: Inputs) -> Any:
    """A compressed `coremltools` model with the biases of its layers corrected.

    Args:
        model: the compressed model.
        plain: the model before compression.
        inputs: real inputs, one batch.
    """
    means: dict[str, Tensor] = {}
    shifts: dict[str, Array] = {}

    def note(op: Any, answer: Tensor) -> Tensor:
        if _has_bias(op):
            means[op.outputs[0].name] = _average(op, answer)
        return answer

    def correct(op: Any, answer: Tensor) -> Tensor:
        name = op.outputs[0].name
        if name not in means or not _has_bias(op):
            return answer
        shift = means[name] - _average(op, answer)
        shifts[name] = shift.numpy()
        return answer + _spread(op, shift, answer.dim())

    arrays = [tensor.numpy() for tensor in inputs]
    for source, tap in ((plain, note), (model, correct)):
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.mlpackage"
            source.save(str(path))
            Program(path)(*arrays, tap=tap)
    return _shifted(model, shifts)


def _has_bias(op: Any) -> bool:
    return op.op_type in ("conv", "linear") and op.inputs.get("bias") is not None


def _average(op: Any, answer: Tensor) -> Tensor:
    """Mean of every channel: the second dimension of a convolution, the last of a linear layer."""
    axis = 1 if op.op_type == "conv" else answer.dim() - 1
    return answer.float().mean([dim for dim in range(answer.dim()) if dim != axis])


def _spread(op: Any, shift: Tensor, dims: int) -> Tensor:
    return shift.view(-1, *[1] * (dims - 2)) if op.op_type == "conv" else shift


def _shifted(model: Any, shifts: dict[str, Array]) -> Any:
    """The model with the bias of every operator in `shifts` shifted."""
    from coremltools.converters.mil.mil import Builder
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.models.utils import _apply_graph_pass

    class Shift(AbstractGraphPass):  # type: ignore[misc]
        def apply(self, prog: Any) -> None:
            for function in prog.functions.values():
                for op in list(function.operations):
                    name = op.outputs[0].name if op.outputs else ""
                    if name in shifts and _has_bias(op):
                        before = op.inputs["bias"].val
                        after = (before.astype(np.float32) + shifts[name]).astype(before.dtype)
                        with function:
                            bias = Builder.const(val=after, name=f"{name}_bias", before_op=op)
                        op.set_inputs(bias=bias)

    return _apply_graph_pass(model, Shift(), skip_model_load=True)
