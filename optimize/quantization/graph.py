"""Copying a captured graph while changing what its layers compute with."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from optimize.errors import DataError, ModelError, OptionError
from optimize.lowering.blame import blamed, note_layer
from optimize.lowering.capture import Free, capture
from optimize.lowering.graphs import aten, constant, copy_call, layer_name
from optimize.lowering.inputs import Inputs, count, rows

LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.linear.default, aten.embedding.default)


class Quantized(nn.Module):
    """A model whose layers compute or are stored in fewer bits; trace and save it like any.

    Attributes:
        engine: what `torch.backends.quantized.engine` must be in the process that runs it,
            before a saved file is loaded; None when any will do.
        lowered: names of the layers that changed.
        left_in_float: names of the layers that did not, with the reason.
        frozen: whether its trace is to be frozen: it folds constants, stored weights too.
    """

    def __init__(
        self,
        body: nn.Module,
        engine: str | None,
        lowered: tuple[str, ...],
        left_in_float: dict[str, str],
        frozen: bool = True,
    ) -> None:
        super().__init__()
        self.body = body
        self.engine, self.lowered, self.left_in_float = engine, lowered, left_in_float
        self.frozen = frozen

    def forward(self, *inputs: Tensor) -> Inputs:
        result: Inputs = self.body(*inputs)
        return result


def captured(
    model: nn.Module, calibration: Inputs, keep_float: Collection[str], free: Free | None = None
) -> fx.GraphModule:
    """The model as one flat graph with batch normalisation folded.

    Args:
        model: in eval mode, from tensors to a tensor or a tuple of tensors.
        calibration: real inputs `[N, ...]`, one tensor or a tuple of several, at least two rows.
        keep_float: names of layers that are to stay as they are.
        free: the dimensions that vary, see `capture`.

    Raises:
        ModelError: the graph cannot be captured.
        DataError: fewer than two inputs.
        OptionError: `keep_float` names no module.
    """
    known = {name for name, _ in model.named_modules()}
    for name in keep_float:
        if name not in known:
            raise OptionError(f"keep: there is no layer {name!r} in this model")
    if count(calibration) < 2:
        raise DataError("quantization needs calibration data: two inputs or more")
    return capture(model, rows(calibration, 0, 2), keep_float, free)


class Copier:
    """A walk over a captured graph that copies every operator; methods change some of them.

    Attributes:
        lowered: names of the layers that were changed.
        left: names of those that were not, with the reason.
    """

    def __init__(self, source: fx.GraphModule, keep_float: Collection[str]) -> None:
        self.source, self.keep_float = source, keep_float
        self.root, self.graph = nn.Module(), fx.Graph()
        self.made: dict[fx.Node, fx.Node] = {}
        self.lowered: list[str] = []
        self.left: dict[str, str] = {}

    def copy(self) -> fx.GraphModule:
        """The changed graph as a module."""
        for node in self.source.graph.nodes:
            if node.op == "placeholder":
                self.made[node] = self.placeholder(node)
            elif node.op == "output":
                results = tuple(self.result(result) for result in node.args[0])
                self.graph.output(results[0] if len(results) == 1 else results)
            elif node.op != "get_attr":
                with blamed(layer_name(node), "cannot be quantized"):
                    self.made[node] = self.operator(node)
            note_layer(self.graph, layer_name(node))
        module = fx.GraphModule(self.root, self.graph)
        module.graph.eliminate_dead_code()
        module.recompile()
        return module.eval()

    def placeholder(self, node: fx.Node) -> fx.Node:
        return self.graph.placeholder("x" if node.prev.op == "root" else node.name)

    def result(self, node: fx.Node) -> fx.Node:
        return self.fetch(node)

    def fetch(self, node: fx.Node) -> fx.Node:
        """The copy of a value; stored tensors are copied on first demand."""
        if node not in self.made:
            tensor = constant(self.source, node)
            if tensor is None:
                raise ModelError(f"{node.target} is not a tensor: the model cannot be quantized")
            self.made[node] = self.stored(str(node.target), tensor)
        return self.made[node]

    def stored(self, name: str, tensor: Tensor) -> fx.Node:
        """A read of a tensor kept as it is."""
        path = self.free(name)
        self.root.register_buffer(path, tensor)
        return self.graph.get_attr(path)

    def free(self, name: str) -> str:
        """An attribute name that is not taken."""
        path = name.replace(".", "_")
        while hasattr(self.root, path):
            path += "_"
        return path

    def call(self, name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        path = self.free(name)
        self.root.add_module(path, module)
        return self.graph.call_module(path, args)

    def operator(self, node: fx.Node) -> fx.Node:
        args, kwargs = fx.map_arg((node.args, node.kwargs), self.fetch)
        return self.emit(node, args, kwargs)

    def emit(self, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        if node.target is aten.sym_size.int:
            return self.graph.call_method("size", args)
        return copy_call(self.graph, node, args, kwargs)

    def changes(self, node: fx.Node) -> bool:
        """Whether `node` is a layer that is to change; notes it under its names."""
        if node.target not in LAYERS:
            return False
        names = node.meta.get("names", [layer_name(node)])
        kept = [n for n in names if any(n == k or n.startswith(f"{k}.") for k in self.keep_float)]
        if kept:
            self.left.update(dict.fromkeys(names, "kept in float32 as asked"))
            return False
        self.lowered += names
        return True


def is_float(node: fx.Node) -> bool:
    """Whether a node's value is a float32 tensor."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32
