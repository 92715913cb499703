"""Weights stored as int8 per output channel and used as float32: a quarter of the bytes, float
speed, no calibration."""

from collections.abc import Collection

import torch
from torch import fx, nn

from optimize.lowering.blame import try_out
from optimize.lowering.capture import Free
from optimize.lowering.graphs import RECURRENT, constant, layer_name
from optimize.lowering.inputs import Inputs, rows
from optimize.lowering.kernels.weights import Int8Weight
from optimize.quantization.graph import Copier, Quantized, captured
from optimize.utils.torchscript import silenced


def store_int8(
    model: nn.Module,
    calibration: Inputs,
    *,
    keep_float: Collection[str] = (),
    free: Free | None = None,
) -> Quantized:
    """Store the weights of convolutions, linear layers and embeddings as int8.

    Args:
        model: float32, in eval mode; left as it is.
        calibration: real inputs `[N, ...]`, two rows or more; only their shape matters.
        keep_float: names of layers, or of modules that contain them, that stay in float32.
        free: the dimensions that vary, see `capture`.

    Raises:
        ModelError: the graph cannot be captured.
        OptionError: `keep_float` names no module.
    """
    source = captured(model, calibration, keep_float, free)
    copier = _Storing(source, keep_float)
    body = copier.copy()
    try_out(body, source, rows(calibration, 0, 2))
    return Quantized(body, None, tuple(copier.lowered), copier.left, frozen=False).eval()


class _Storing(Copier):
    def operator(self, node: fx.Node) -> fx.Node:
        if self.changes(node):
            for argument in node.args[:2]:  # an embedding's weight comes first
                if not isinstance(argument, fx.Node) or argument in self.made:
                    continue
                weight = constant(self.source, argument)
                if weight is not None and weight.dim() > 1 and weight.is_floating_point():
                    with silenced():
                        stored = torch.jit.script(Int8Weight(weight.detach()))
                    self.made[argument] = self.call(str(argument.target), stored)
        elif node.target in RECURRENT or str(node.target).startswith("aten.conv"):
            reason = "int8 is stored for linear layers and convolutions of one or two dimensions"
            self.left.setdefault(layer_name(node), reason)
        return super().operator(node)
