"""Lower a float model to uint8 activations and int8 weights in oneDNN kernels."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from optimize.errors import DataError
from optimize.lowering import kernels
from optimize.lowering.capture import arguments, aten, capture, constant, layer_name
from optimize.lowering.plan import TRANSPARENT, Group, Plan, make_plan
from optimize.lowering.ranges import Affine, calibrate

ENGINE = "onednn"
# A float32 classifier this small costs less than quantizing its input.
_SMALL_HEAD = 1 << 16


class Lowered(nn.Module):
    """What `lower_int8` returns: trace, freeze and save it like any module.

    Attributes:
        lowered: names of the layers that run in int8.
        left_in_float: names of the layers that do not, with the reason.
    """

    def __init__(
        self, body: nn.Module, lowered: tuple[str, ...], left_in_float: dict[str, str]
    ) -> None:
        super().__init__()
        self.body = body
        self.lowered, self.left_in_float = lowered, left_in_float

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


def lower_int8(
    model: nn.Module,
    calibration: Iterable[Tensor],
    *,
    input_scale: float | None = None,
    input_zero_point: int | None = None,
) -> Lowered:
    """Quantize `model` statically (Jacob et al. 2018) and lower it to oneDNN's int8 kernels.

    Activations are uint8 from kernel to kernel; weights are int8 per output channel; batch
    norm, bias, ReLU and residual adds happen inside the kernels, and a clamp such as ReLU6 is
    the saturation of uint8 itself, hence free and exact. Layers without an int8 kernel stay in
    float32 and are named in `left_in_float`.

    Args:
        model: float32, in eval mode, one tensor in and one out. Left as it is.
        calibration: batches of real inputs `[N, ...]`, as the returned module takes them:
            uint8 pixels when `input_scale` is given, else float32. One batch must hold at
            least two.
        input_scale, input_zero_point: when given, the returned module takes uint8
            `[N, C, H, W]` pixels that mean `(pixel - input_zero_point) * input_scale` to
            `model`, and reads them as its quantized input without any arithmetic. For
            `(pixel / 255 - mean) / std` that is `input_scale = 1 / (255 * std)` and
            `input_zero_point = 255 * mean`, when that is a whole number.

    Returns:
        A module for `torch.jit.trace` and `torch.jit.freeze`; the saved file needs plain torch
        alone, with `torch.backends.quantized.engine = ENGINE` set before it is loaded. Call it
        with batch 1 first: each kernel keeps the first shape it meets ready to run. Sets the
        engine of this process.

    Raises:
        ModelError: the graph cannot be captured.
        DataError: no calibration data.
    """
    pixels = None
    if input_scale is not None:
        pixels = Affine(float(input_scale), int(input_zero_point or 0))
    batches = [_as_float(batch, pixels) for batch in calibration]
    example = next((b for b in batches if len(b) >= 2), None)
    if example is None:
        raise DataError("quantization needs calibration data: one batch of two inputs or more")
    graph = capture(copy.deepcopy(model).eval(), example[:2])
    plan = make_plan(graph)
    affines = calibrate(graph, plan.observed(), batches)
    # Both packing and the fused adds look at the engine, the latter whenever they run.
    torch.backends.quantized.engine = ENGINE
    with warnings.catch_warnings():
        # torch 2.13 announces the end of quantized dtypes, once, at the first such tensor.
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")
        return _Emitter(graph, plan, affines, pixels).emit()


def _as_float(batch: Tensor, pixels: Affine | None) -> Tensor:
    return (batch.float() - pixels.zero_point) * pixels.scale if pixels else batch


class _Emitter:
    """Walks the float graph and writes the quantized one.

    Each value exists as float, as uint8, or both; the missing form is made on first demand.
    """

    def __init__(
        self,
        source: fx.GraphModule,
        plan: Plan,
        affines: dict[fx.Node, Affine],
        pixels: Affine | None,
    ) -> None:
        self.source, self.plan, self.affines, self.pixels = source, plan, affines, pixels
        self.root, self.graph = nn.Module(), fx.Graph()
        self.float: dict[fx.Node, fx.Node] = {}
        self.uint8: dict[fx.Node, fx.Node] = {}
        self.lowered: list[str] = []

    def emit(self) -> Lowered:
        for node in self.source.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node in self.plan.groups:
                self._group(self.plan.groups[node])
            elif node.op == "output":
                (result,) = node.args[0]
                self.graph.output(self.as_float(result))
            elif node not in self.plan.inner:
                self._other(node)
        body = fx.GraphModule(self.root, self.graph)
        body.graph.eliminate_dead_code()
        body.recompile()
        return Lowered(body, tuple(self.lowered), dict(self.plan.refused)).eval()

    def _call(self, name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        path = name.replace(".", "_")
        while hasattr(self.root, path):
            path += "_"
        self.root.add_module(path, module)
        return self.graph.call_module(path, args)

    def as_float(self, node: fx.Node) -> fx.Node:
        if node not in self.float:
            self.float[node] = self._call("dequantize", kernels.Dequantize(), self.uint8[node])
        return self.float[node]

    def as_uint8(self, node: fx.Node) -> fx.Node:
        if node not in self.uint8:
            kernel = kernels.Quantize(self.affines[node])
            self.uint8[node] = self._call("quantize", kernel, self.float[node])
        return self.uint8[node]

    def _placeholder(self, node: fx.Node) -> None:
        copied = self.graph.placeholder("x")
        if self.pixels is None:
            self.float[node] = copied
        else:
            self.uint8[node] = self._call("pixels", kernels.Pixels(self.pixels), copied)

    def _weights(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        weight = constant(self.source, node.args[1])
        assert weight is not None  # the plan took only stored weights
        return weight, constant(self.source, arguments(node)[2])

    def _group(self, group: Group) -> None:
        name = layer_name(group.node)
        output = self.affines[group.last]
        if group.kind == "add":
            call = kernels.Add(group.relu, output)
            made = self._call(name, call, *map(self.as_uint8, group.inputs))
        elif group.kind == "cat":
            dim = arguments(group.node)[1]
            call_cat = kernels.Concatenate(dim, output)
            made = self._call(name, call_cat, *map(self.as_uint8, group.inputs))
        elif group.kind == "linear":
            made_float = self._small_head(group)
            if made_float is not None:
                self.float[group.last] = made_float
                return
            weight, bias = self._weights(group.node)
            linear = kernels.Linear(weight, bias, group.relu, output)
            made = self._call(name, linear, self.as_uint8(group.inputs[0]))
        else:
            weight, bias = self._weights(group.node)
            make: Callable[..., nn.Module] = kernels.Convolution
            reads = [self.as_uint8(group.inputs[0])]
            if group.other is not None:
                make = kernels.ConvolutionAdd
                reads.append(self.as_uint8(group.other))
            shape = arguments(group.node)[3:7]
            made = self._call(name, make(weight, bias, *shape, group.relu, output), *reads)
        if group.kind in ("conv", "linear"):
            self.lowered.append(name)
        self.uint8[group.last] = made

    def _small_head(self, group: Group) -> fx.Node | None:
        """A small last layer stays float32: exact logits for the price of one dequantize."""
        weight, bias = self._weights(group.node)
        if group.relu or weight.numel() > _SMALL_HEAD:
            return None
        if any(user.op != "output" for user in group.last.users):
            return None
        head = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        head.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
        name = layer_name(group.node)
        self.plan.refused[name] = "small last layer: float32 is as fast and exact"
        return self._call(name, head, self.as_float(group.inputs[0]))

    def _other(self, node: fx.Node) -> None:
        """Copy an operator that has no group, in uint8 where that changes nothing."""
        if node.op == "get_attr":
            tensor = constant(self.source, node)
            name = str(node.target).replace(".", "_")
            if not hasattr(self.root, name):
                self.root.register_buffer(name, tensor)
            self.float[node] = self.graph.get_attr(name)
            return
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        if node.target is aten.sym_size.int and first is not None:
            value = self.uint8[first] if first in self.uint8 else self.float[first]
            self.float[node] = self.graph.call_method("size", (value, node.args[1]))
            return
        uint8 = node.target in TRANSPARENT and first in self.uint8

        def fetch(argument: fx.Node) -> fx.Node:
            return self.uint8[argument] if uint8 and argument is first else self.as_float(argument)

        copied = _copy_call(
            self.graph, node, fx.map_arg(node.args, fetch), fx.map_arg(node.kwargs, fetch)
        )
        if uint8 and first is not None:
            self.uint8[node] = copied
            if first in self.affines:
                self.affines[node] = self.affines[first]
        else:
            self.float[node] = copied


def _copy_call(graph: fx.Graph, node: fx.Node, args: Any, kwargs: Any) -> fx.Node:
    """Copy one operator call so that a trace of it keeps the batch size free.

    `view` becomes `reshape`, as memory layouts differ from the captured ones, with -1 for the
    batch; other calls that take a size become tensor methods, whose size arguments are traced.
    """
    target: Any = node.target
    if target in (aten.view.default, aten.reshape.default):
        shape = [-1 if isinstance(size, fx.Node) else size for size in args[1]]
        if shape.count(-1) <= 1:
            return graph.call_function(torch.reshape, (args[0], shape))
        return graph.call_method("reshape", args)
    sized = any(
        isinstance(size, fx.Node) for arg in args[1:] if isinstance(arg, list) for size in arg
    )
    if isinstance(target, torch._ops.OpOverload):
        name = target.overloadpacket.__name__
        if sized and hasattr(torch.Tensor, name):
            return graph.call_method(name, args, kwargs)
        return graph.call_function(target.overloadpacket, args, kwargs)
    return graph.call_function(target, args, kwargs)
