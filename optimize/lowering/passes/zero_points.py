"""Zero points moved into biases.

A kernel corrects for the zero points of its input and output in every number it writes, up to
a tenth of the time of a convolution with few inputs. Between convolutions that read no padding
the correction is the same for all pixels of a channel, so it can be part of the bias: the stored
numbers stay what they are, and both kernels take them to have the zero point 0. Exact.
"""

from dataclasses import dataclass, field

from torch import Tensor, fx

from optimize.lowering.graphs import arguments, aten
from optimize.lowering.plan import Group, Plan
from optimize.lowering.qparams import QParams


@dataclass
class Offsets:
    """What each kernel's tensors are greater by than their values, by the tensors' nodes."""

    by: dict[fx.Node, float] = field(default_factory=dict)

    def bias(self, group: Group, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """The bias of a convolution that reads and writes shifted tensors.

        Args:
            weight: quantized per output channel, as the kernel has it.
        """
        source = self.by.get(group.inputs[0], 0.0)
        other = 0.0 if group.other is None else self.by.get(group.other, 0.0)
        shift = self.by.get(group.last, 0.0) - other
        if not source and not shift:
            return bias
        per_channel = shift - source * weight.dequantize().double().flatten(1).sum(1)
        return (per_channel if bias is None else per_channel + bias.double()).float()


def fold_offsets(plan: Plan, qparams: dict[fx.Node, QParams]) -> Offsets:
    """Give every tensor that allows it the zero point 0, in `qparams`."""
    offsets = Offsets()
    readers = {node: g for g in plan.groups.values() for node in (g.node, *g.fused)}
    for node, group in plan.groups.items():
        output = qparams.get(node)
        if group.kind != "conv" or group.relu or output is None or output.zero_point == 0:
            continue
        if node.users and all(_shiftable(node, readers.get(user)) for user in node.users):
            offsets.by[node] = output.scale * output.zero_point
            qparams[node] = QParams(output.scale, 0)
    return offsets


def _shiftable(node: fx.Node, reader: Group | None) -> bool:
    """Whether a kernel reads `node` without padding, or adds it up."""
    if reader is None or reader.kind != "conv":
        return False
    if node is reader.other:
        return True
    padding = arguments(reader.node)[4]
    return reader.node.target is aten.conv2d.default and not any(padding)
