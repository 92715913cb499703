"""Dynamic int8: linear layers whose inputs are quantized row by row, by the range of each."""

from collections.abc import Collection

import torch
from torch import fx, nn

from optimize.errors import ModelError
from optimize.lowering import ENGINE
from optimize.lowering.blame import try_out
from optimize.lowering.capture import Free
from optimize.lowering.graphs import RECURRENT, aten, constant, layer_name
from optimize.lowering.inputs import Inputs, rows
from optimize.lowering.kernels.quantized import DynamicLinear
from optimize.quantization.graph import Copier, Quantized, captured
from optimize.utils.torchscript import silenced


def to_dynamic_int8(
    model: nn.Module,
    calibration: Inputs,
    *,
    keep_float: Collection[str] = (),
    free: Free | None = None,
) -> Quantized:
    """Quantize the linear layers; convolutions stay, as there are no dynamic kernels for them.

    Args:
        model: float32, in eval mode; left as it is.
        calibration: real inputs `[N, ...]`, two rows or more; only their shape matters.
        keep_float: names of layers, or of modules that contain them, that stay in float32.
        free: the dimensions that vary, see `capture`.

    Raises:
        ModelError: the graph cannot be captured, or has no linear layer.
        OptionError: `keep_float` names no module.
    """
    source = captured(model, calibration, keep_float, free)
    if not any(node.target is aten.linear.default for node in source.graph.nodes):
        raise ModelError(
            "dynamic_int8 quantizes linear layers, and this model has none; use static_int8"
        )
    torch.backends.quantized.engine = ENGINE
    copier = _Dynamic(source, keep_float)
    with silenced(), torch.no_grad():
        body = copier.copy()
        try_out(body, source, rows(calibration, 0, 2))
    return Quantized(body, ENGINE, tuple(copier.lowered), copier.left).eval()


class _Dynamic(Copier):
    def operator(self, node: fx.Node) -> fx.Node:
        if node.target is not aten.linear.default:
            if node.target in RECURRENT or str(node.target).startswith("aten.conv"):
                reason = "dynamic int8 has kernels for linear layers only"
                self.left[layer_name(node)] = reason
            return super().operator(node)
        weight = constant(self.source, node.args[1])
        bias = node.args[2] if len(node.args) > 2 else None
        if weight is None or not self.changes(node):
            return super().operator(node)
        x = node.args[0]
        assert isinstance(x, fx.Node)
        stored = constant(self.source, bias) if bias is not None else None
        return self.call(layer_name(node), DynamicLinear(weight, stored), self.fetch(x))
