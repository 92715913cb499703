"""PT2E quantization of exported programs (torchao), for the formats that start from it."""

import contextlib
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from optimize.export.subject import Inputs

# What quantizers match: an operator's module, whoever called it.
_SOURCES: dict[Any, Any] = {
    torch.ops.aten.conv1d.default: nn.Conv1d,
    torch.ops.aten.conv2d.default: nn.Conv2d,
    torch.ops.aten.linear.default: nn.Linear,
    torch.ops.aten.batch_norm.default: nn.BatchNorm2d,
    torch.ops.aten.relu.default: nn.ReLU,
    torch.ops.aten.hardtanh.default: nn.Hardtanh,
    torch.ops.aten.hardswish.default: nn.Hardswish,
    torch.ops.aten.silu.default: nn.SiLU,
    torch.ops.aten.gelu.default: nn.GELU,
    torch.ops.aten.tanh.default: nn.Tanh,
    torch.ops.aten.leaky_relu.default: nn.LeakyReLU,
    torch.ops.aten.add.Tensor: operator.add,
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """torchao tells of libraries for other machines, and of Python's own changes."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def quantize(program: ExportedProgram, quantizer: Any, calibration: list[Inputs]) -> nn.Module:
    """The program with quantizers around what `quantizer` annotates.

    Args:
        program: float32.
        quantizer: a `torchao.quantization.pt2e.quantizer.Quantizer`.
        calibration: real inputs, for the ranges of activations.

    Returns:
        A graph module, to be exported again.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    graph: Any = program.module()
    _part(graph)
    with torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
        for piece in calibration:
            prepared(*piece)
        return convert_pt2e(prepared)  # type: ignore[no-any-return]


def _part(graph: Any) -> None:
    """Give every operator a source, and every linear layer a weight, of its own.

    Quantizers match by source: the calls of a module that is used twice are one operator with
    two answers to them. A weight that an embedding table shares would stay in float.
    """
    for node in list(graph.graph.nodes):
        if node.target in _SOURCES:
            node.meta["source_fn_stack"] = [(node.name, _SOURCES[node.target])]
        if node.target is torch.ops.aten.linear.default and len(node.args[1].users) > 1:
            _own(graph, node, node.args[1])
    graph.recompile()


def _own(graph: Any, node: Any, shared: Any) -> None:
    """Replace a parameter that `node` shares by a copy."""
    weight: Any = graph
    for part in shared.target.split("."):
        weight = getattr(weight, part)
    name = f"{node.name}_weight"
    graph.register_parameter(name, nn.Parameter(weight.detach().clone(), requires_grad=False))
    with graph.graph.inserting_before(node):
        own = graph.graph.get_attr(name)
    own.meta = dict(shared.meta)
    node.replace_input_with(shared, own)
