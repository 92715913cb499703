"""bfloat16: half the bytes, and twice the speed or more where the processor multiplies it."""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from optimize.lowering.blame import try_out
from optimize.lowering.capture import Free
from optimize.lowering.graphs import constant
from optimize.lowering.inputs import Inputs, rows
from optimize.quantization.graph import LAYERS, Copier, Quantized, captured, is_float


def to_bfloat16(
    model: nn.Module,
    calibration: Inputs,
    *,
    keep_float: Collection[str] = (),
    free: Free | None = None,
) -> Quantized:
    """Weights and activations in bfloat16, from the first layer to the last.

    Batch normalisation is folded in float32 before weights are rounded; what comes before the
    first layer (normalisation of the input) stays float32, and so does what the model itself
    casts to float32.

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
    copier = _Half(source, keep_float)
    body = copier.copy()
    try_out(body, source, rows(calibration, 0, 2))
    return Quantized(body, None, tuple(copier.lowered), copier.left).eval()


class _Half(Copier):
    """`half` holds the nodes whose copies are bfloat16."""

    def __init__(self, source: fx.GraphModule, keep_float: Collection[str]) -> None:
        super().__init__(source, keep_float)
        self.half: set[fx.Node] = set()
        self.casts: dict[tuple[fx.Node, bool], fx.Node] = {}

    def placeholder(self, node: fx.Node) -> fx.Node:
        x = super().placeholder(node)
        if node.meta["val"].dim() == 4:
            layout: dict[str, Any] = {"memory_format": torch.channels_last}
            return self.graph.call_method("contiguous", (x,), layout)
        return x

    def result(self, node: fx.Node) -> fx.Node:
        return self.cast(node, False)

    def cast(self, node: fx.Node, half: bool) -> fx.Node:
        """The copy of a float value as bfloat16 or float32; other values as they are."""
        if not is_float(node) and constant(self.source, node) is None:
            return self.fetch(node)
        if (node, half) not in self.casts:
            tensor = constant(self.source, node)
            if tensor is not None and tensor.dtype == torch.float32:
                layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
                tensor = tensor.to(torch.bfloat16 if half else torch.float32, memory_format=layout)
                self.casts[node, half] = self.stored(str(node.target), tensor)
            elif tensor is not None or (node in self.half) == half:
                self.casts[node, half] = self.fetch(node)
            else:
                dtype = torch.bfloat16 if half else torch.float32
                self.casts[node, half] = self.graph.call_method("to", (self.fetch(node), dtype))
        return self.casts[node, half]

    def operator(self, node: fx.Node) -> fx.Node:
        layer = node.target in LAYERS
        half = self.changes(node) if layer else any(n in self.half for n in node.all_input_nodes)
        explicit = node.kwargs.get("dtype") is not None  # the model's own cast
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.cast(n, half))
        if half and is_float(node) and not explicit:
            self.half.add(node)
        return self.emit(node, args, kwargs)
