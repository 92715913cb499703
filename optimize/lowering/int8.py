"""Lower a float model to uint8 activations and int8 weights in oneDNN kernels."""

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from optimize.errors import DataError
from optimize.lowering import hot, kernels
from optimize.lowering.capture import capture
from optimize.lowering.graphs import arguments, aten, constant, layer_name
from optimize.lowering.plan import TRANSPARENT, Group, Plan, make_plan
from optimize.lowering.ranges import Affine, calibrate
from optimize.torchscript import silenced

Engine = Literal["onednn", "fbgemm"]

ENGINE: Engine = "onednn"
# A float32 classifier this small costs less than quantizing its input.
_SMALL_HEAD = 1 << 16
# FBGEMM starts a kernel in 2 us against oneDNN's 12, and computes 10 to 30% slower: below this
# many multiply-accumulates per kernel and input it wins.
_SMALL_KERNEL = 2.5e6


# By whether there are copies for batch sizes, and whether an addition is fused.
_CONVOLUTIONS: dict[tuple[bool, bool], Callable[..., nn.Module]] = {
    (False, False): kernels.Convolution,
    (False, True): kernels.ConvolutionAdd,
    (True, False): hot.HotConvolution,
    (True, True): hot.HotConvolutionAdd,
}


class Lowered(nn.Module):
    """What `lower_int8` returns: trace, freeze and save it like any module.

    Attributes:
        engine: what `torch.backends.quantized.engine` must be, in the process that runs it and
            before a saved file is loaded.
        lowered: names of the layers that run in int8.
        left_in_float: names of the layers that do not, with the reason.
    """

    def __init__(
        self,
        body: nn.Module,
        engine: Engine,
        lowered: tuple[str, ...],
        left_in_float: dict[str, str],
    ) -> None:
        super().__init__()
        self.body = body
        self.engine, self.lowered, self.left_in_float = engine, lowered, left_in_float

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result

    def scripted(self) -> torch.jit.ScriptModule:
        """The TorchScript module to save, as it is: tracing would lose the choice between
        copies, freezing would store each of them."""
        with silenced(), warnings.catch_warnings():
            # torch.jit looks through the source of torch.fx.GraphModule and finds fault.
            warnings.filterwarnings("ignore", message="The TorchScript type system doesn't")
            scripted: torch.jit.ScriptModule = torch.jit.script(self.body)
        return scripted


def lower_int8(
    model: nn.Module,
    calibration: Iterable[Tensor],
    *,
    input_scale: float | None = None,
    input_zero_point: int | None = None,
    engine: Engine | None = None,
    hot_batch: int | None = None,
) -> Lowered:
    """Quantize `model` statically (Jacob et al. 2018) and lower it to int8 kernels.

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
            `input_zero_point = 255 * mean`, when that is a whole number. Pixels that lie in
            memory as `[N, H, W, C]` (a permuted view) are read without a copy.
        engine: the kernels; by default FBGEMM for networks of small dense convolutions, whose
            latency is the start of each kernel, and oneDNN for all others.
        hot_batch: with oneDNN, keep the kernels ready to run for batch 1, for this batch size
            and for the first other one, by copies of the packed weights in memory (the file
            holds them once). None: kernels ready for the first batch size they meet only.

    Returns:
        A module whose `scripted()` is ready to save; the file needs plain torch alone, with
        `torch.backends.quantized.engine` set to the module's `engine` before it is loaded.
        Without `hot_batch` it may also be traced and frozen. Sets this process' engine.

    Raises:
        ModelError: the graph cannot be captured.
        DataError: no calibration data.
    """
    pixels = None
    if input_scale is not None:
        pixels = Affine(float(input_scale), int(input_zero_point or 0))
    given = list(calibration)
    batches = [_as_float(batch, pixels) for batch in given]
    index = next((i for i, b in enumerate(batches) if len(b) >= 2), None)
    if index is None:
        raise DataError("quantization needs calibration data: one batch of two inputs or more")
    graph = capture(copy.deepcopy(model).eval(), batches[index][:2])
    engine = engine or _suitable_engine(graph)
    plan = make_plan(graph, fuse_adds=engine == "onednn")
    affines = calibrate(graph, plan.observed(), batches)
    # Both packing and the fused adds look at the engine, the latter whenever they run.
    torch.backends.quantized.engine = engine
    with silenced(), torch.no_grad(), warnings.catch_warnings():
        # torch 2.13 announces the end of quantized dtypes, once, at the first such tensor.
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")
        ready = hot_batch if engine == "onednn" else None
        emitter = _Emitter(graph, plan, affines, pixels, ready)
        body = emitter.emit()
    return Lowered(body, engine, tuple(emitter.lowered), dict(plan.refused)).eval()


def _suitable_engine(graph: fx.GraphModule) -> Engine:
    """FBGEMM for small dense kernels; its grouped ones saturate at 16 bits on the way."""
    work = []
    for node in graph.graph.nodes:
        if node.target in (aten.conv2d.default, aten.linear.default):
            weight, output = node.args[1].meta["val"], node.meta["val"]
            positions = output.shape[2:].numel() if node.target is aten.conv2d.default else 1
            work.append(weight.numel() * positions)
            if node.target is aten.conv2d.default and arguments(node)[6] != 1:
                return ENGINE
    return "fbgemm" if work and sum(work) / len(work) < _SMALL_KERNEL else ENGINE


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
        hot: int | None,
    ) -> None:
        self.hot = hot
        self.lane: fx.Node | None = None
        self.source, self.plan, self.affines, self.pixels = source, plan, affines, pixels
        self.root, self.graph = nn.Module(), fx.Graph()
        self.float: dict[fx.Node, fx.Node] = {}
        self.uint8: dict[fx.Node, fx.Node] = {}
        self.lowered: list[str] = []

    def emit(self) -> nn.Module:
        for node in self.source.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node in self.plan.groups:
                self._group(self.plan.groups[node])
            elif node.op == "output":
                (result,) = node.args[0]
                self.graph.output(self.as_float(result))
            elif node.op != "get_attr" and node not in self.plan.inner:
                self._other(node)
        body = fx.GraphModule(self.root, self.graph)
        body.graph.eliminate_dead_code()
        body.recompile()
        return body.eval()

    def _call(self, name: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        path = name.replace(".", "_")
        while hasattr(self.root, path):
            path += "_"
        self.root.add_module(path, module)
        return self.graph.call_module(path, args)

    def as_float(self, node: fx.Node) -> fx.Node:
        if node.op == "get_attr" and node not in self.float:
            name = str(node.target).replace(".", "_")
            self.root.register_buffer(name, constant(self.source, node))
            self.float[node] = self.graph.get_attr(name)
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
        if self.hot is not None:
            self.lane = self._call("lane", hot.Lane(self.hot), copied)
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
            call = kernels.Add(output)
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
            made = self._weighted(name, group)
        else:
            made = self._weighted(name, group)
        if group.kind in ("conv", "linear"):
            self.lowered.append(name)
        self.uint8[group.last] = made

    def _weighted(self, name: str, group: Group) -> fx.Node:
        """A convolution or linear layer, in copies when there is a hot batch size."""
        weight, bias = self._weights(group.node)
        stored = kernels.quantize_weight(weight)
        output = self.affines[group.last]
        reads = [self.as_uint8(group.inputs[0])]
        if group.other is not None:
            reads.append(self.as_uint8(group.other))
        if self.lane is not None:
            reads.append(self.lane)
        if group.kind == "linear":
            make_linear = kernels.Linear if self.lane is None else hot.HotLinear
            return self._call(name, make_linear(stored, bias, output), *reads)
        make = _CONVOLUTIONS[self.lane is not None, group.other is not None]
        shape = arguments(group.node)[3:7]
        return self._call(name, make(stored, bias, *shape, output=output), *reads)

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
