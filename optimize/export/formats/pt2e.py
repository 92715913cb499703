"""PT2E quantization of exported programs (torchao), for the formats that use it."""

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
from optimize.lowering.qparams import quantize_rows

# The module of each operator, which quantizers match.
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
    """Silence torchao's messages about other machines' libraries and Python's deprecations."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def quantize(program: ExportedProgram, quantizer: Any, calibration: list[Inputs]) -> nn.Module:
    """The program quantized where `quantizer` annotates it, and with int8 embedding tables.

    Args:
        program: float32.
        quantizer: a `torchao.quantization.pt2e.quantizer.Quantizer`.
        calibration: real inputs for the ranges of activations.

    Returns:
        A graph module, to be exported again.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    graph: Any = program.module()
    _separate(graph)
    with torch.no_grad():
        prepared = prepare_pt2e(graph, quantizer)
        for piece in calibration:
            prepared(*piece)
        converted: nn.Module = convert_pt2e(prepared)
        _shrink_tables(converted)
    return converted


def _separate(graph: Any) -> None:
    """Give every operator its own source, and every linear layer its own weight.

    Quantizers match by source, and would take two calls of one module for one operator with two
    outputs. A weight shared with an embedding table would stay in float.
    """
    for node in list(graph.graph.nodes):
        if node.target in _SOURCES:
            node.meta["source_fn_stack"] = [(node.name, _SOURCES[node.target])]
        if node.target is torch.ops.aten.linear.default and len(node.args[1].users) > 1:
            weight = _weight(graph, node.args[1])
            own = _attribute(graph, node, "weight", weight.detach().clone(), node.args[1].meta)
            node.replace_input_with(node.args[1], own)
    graph.recompile()


def _shrink_tables(graph: Any) -> None:
    """Embedding tables in int8 with a scale per row; quantizers have no pattern for them."""
    for node in list(graph.graph.nodes):
        if node.target is not torch.ops.aten.embedding.default or len(node.args[0].users) > 1:
            continue
        table = _weight(graph, node.args[0]).detach()
        rows, scales = quantize_rows(table)
        parts = [_attribute(graph, node, *item) for item in (("rows", rows), ("scales", scales))]
        with graph.graph.inserting_before(node):
            row, scale = (
                graph.graph.call_function(node.target, (part, node.args[1])) for part in parts
            )
            row = graph.graph.call_function(torch.ops.aten.to.dtype, (row, torch.float32))
            embedded = graph.graph.call_function(torch.ops.aten.mul.Tensor, (row, scale))
        node.replace_all_uses_with(embedded, propagate_meta=True)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    _forget_unread(graph)
    graph.recompile()


def _forget_unread(graph: Any) -> None:
    """Drop unused tensors; exporters would write every buffer."""
    read = {node.target for node in graph.graph.nodes if node.op in ("get_attr", "call_module")}
    for name, _ in [*graph.named_buffers(), *graph.named_parameters()]:
        if not any(name == target or name.startswith(f"{target}.") for target in read):
            owner, _, last = name.rpartition(".")
            delattr(graph.get_submodule(owner), last)


def _weight(graph: Any, node: Any) -> torch.Tensor:
    value = graph
    for part in node.target.split("."):
        value = getattr(value, part)
    return value  # type: ignore[no-any-return]


def _attribute(graph: Any, node: Any, what: str, value: torch.Tensor, meta: Any = None) -> Any:
    """A node before `node` for a new tensor that only `node` uses."""
    name = f"{node.name}_{what}"
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(node):
        attribute = graph.graph.get_attr(name)
    attribute.meta = dict(meta or {})
    return attribute
