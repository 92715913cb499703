"""Write the quantized graph: walk the float one and put kernels in place of groups."""

from collections.abc import Callable

from torch import Tensor, fx, nn

from optimize.lowering import hot, kernels, raw
from optimize.lowering.graphs import arguments, aten, constant, copy_call, layer_name
from optimize.lowering.plan import TRANSPARENT, VIEWS, Group, Plan
from optimize.lowering.ranges import Affine

# A float32 classifier this small costs less than quantizing its input.
_SMALL_HEAD = 1 << 16

# By whether there are copies for batch sizes, and whether an addition is fused.
_CONVOLUTIONS: dict[tuple[bool, bool], Callable[..., nn.Module]] = {
    (False, False): kernels.Convolution,
    (False, True): kernels.ConvolutionAdd,
    (True, False): hot.HotConvolution,
    (True, True): hot.HotConvolutionAdd,
}


class Emitter:
    """One walk over a captured graph.

    A value exists in one or more forms, and a missing one is made on first demand: `float`,
    `half` (bfloat16), `uint8` (a quantized tensor, with its scale) and `plain` (uint8 numbers).
    """

    def __init__(
        self,
        source: fx.GraphModule,
        plan: Plan,
        affines: dict[fx.Node, Affine],
        pixels: Affine | None,
        hot_batch: int | None,
    ) -> None:
        self.source, self.plan, self.affines, self.pixels = source, plan, affines, pixels
        self.hot_batch = hot_batch
        self.lane: fx.Node | None = None
        self.root, self.graph = nn.Module(), fx.Graph()
        self.float: dict[fx.Node, fx.Node] = {}
        self.half: dict[fx.Node, fx.Node] = {}
        self.uint8: dict[fx.Node, fx.Node] = {}
        self.plain: dict[fx.Node, fx.Node] = {}
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
        if node in self.float:
            return self.float[node]
        if node.op == "get_attr":
            name = str(node.target).replace(".", "_")
            self.root.register_buffer(name, constant(self.source, node))
            self.float[node] = self.graph.get_attr(name)
        elif node in self.half:
            self.float[node] = self.graph.call_method("float", (self.half[node],))
        else:
            self.float[node] = self._call("dequantize", kernels.Dequantize(), self.as_uint8(node))
        return self.float[node]

    def as_half(self, node: fx.Node) -> fx.Node:
        return self.half[node] if node in self.half else self.as_float(node)

    def as_uint8(self, node: fx.Node) -> fx.Node:
        if node not in self.uint8:
            if node in self.plain:
                made = self._call("wrap", raw.Wrap(self.affines[node]), self.plain[node])
            else:
                kernel = kernels.Quantize(self.affines[node])
                made = self._call("quantize", kernel, self.as_float(node))
            self.uint8[node] = made
        return self.uint8[node]

    def as_plain(self, node: fx.Node) -> fx.Node:
        if node not in self.plain:
            if node in self.uint8:
                made = self._call("reveal", raw.Reveal(), self.uint8[node])
            else:
                made = self._call("quantize", raw.ToPlain(self.affines[node]), self.as_half(node))
            self.plain[node] = made
        return self.plain[node]

    def _placeholder(self, node: fx.Node) -> None:
        copied = self.graph.placeholder("x")
        if self.hot_batch is not None:
            self.lane = self._call("lane", hot.Lane(self.hot_batch), copied)
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
        if group.kind == "attention":
            scale = self.source_scale(group.node)
            reads = [self.as_half(n) for n in group.inputs]
            self.half[group.last] = self._call("attention", raw.Attention(scale), *reads)
        elif group.kind == "add":
            call = kernels.Add(self.affines[group.last])
            made = self._call(name, call, *map(self.as_uint8, group.inputs))
            self.uint8[group.last] = made
        elif group.kind == "cat":
            cat = kernels.Concatenate(arguments(group.node)[1], self.affines[group.last])
            made = self._call(name, cat, *map(self.as_uint8, group.inputs))
            self.uint8[group.last] = made
        elif group.kind == "linear" and self._small_head(group):
            return
        else:
            self.lowered += group.node.meta.get("names", [name])
            if group.kind == "linear" and self.plan.raw and not self._chained(group):
                self._raw_linear(name, group)
            else:
                self.uint8[group.last] = self._weighted(name, group)

    def source_scale(self, attention: fx.Node) -> float:
        """The factor of the scores: as given, or one over the root of the head's width."""
        given = arguments(attention)[6]
        width = attention.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
        return float(width**-0.5 if given is None else given)

    def _chained(self, group: Group) -> bool:
        """Whether uint8 goes straight from this linear layer into other quantized kernels."""
        return group.post == "none" and self._read_as_uint8(group.last)

    def _read_as_uint8(self, node: fx.Node) -> bool:
        quantized = {g.node: g for g in self.plan.groups.values() if g.kind != "attention"}
        return bool(node.users) and all(
            user in quantized and node in quantized[user].reads() for user in node.users
        )

    def _raw_linear(self, name: str, group: Group) -> None:
        weight, bias = self._weights(group.node)
        output, to = None, raw.FLOAT32
        if group.post != "none" and self._read_as_uint8(group.last):
            output, to = self.affines[group.last], raw.UINT8
        elif _feeds_attention(group.last):
            to = raw.BFLOAT16
        post, algorithm = group.post, "none"
        if post == "gelu_tanh":
            post, algorithm = "gelu", "tanh"
        elif post == "none" and group.relu:
            post = "relu"
        source = group.inputs[0]
        read = self.as_plain(source)
        affine = self.affines[source]
        stored = kernels.quantize_weight(weight)
        kernel = raw.RawLinear(stored, bias, affine, post, algorithm, to, output)
        made = self._call(name, kernel, read)
        forms = {raw.FLOAT32: self.float, raw.BFLOAT16: self.half, raw.UINT8: self.plain}
        forms[to][group.last] = made

    def _weighted(self, name: str, group: Group) -> fx.Node:
        """A convolution or linear layer, in copies when there is a hot batch size."""
        weight, bias = self._weights(group.node)
        stored = kernels.quantize_weight(weight)
        output = self.affines[group.last]
        reads = [self.as_uint8(n) for n in group.reads()]
        if self.lane is not None:
            reads.append(self.lane)
        if group.kind == "linear":
            make_linear = kernels.Linear if self.lane is None else hot.HotLinear
            return self._call(name, make_linear(stored, bias, output), *reads)
        make = _CONVOLUTIONS[self.lane is not None, group.other is not None]
        shape = arguments(group.node)[3:7]
        return self._call(name, make(stored, bias, *shape, output=output), *reads)

    def _small_head(self, group: Group) -> bool:
        """A small last layer stays float32: exact logits for the price of one dequantize."""
        weight, bias = self._weights(group.node)
        if group.relu or group.post != "none" or weight.numel() > _SMALL_HEAD:
            return False
        if any(user.op != "output" for user in group.last.users):
            return False
        head = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        head.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
        name = layer_name(group.node)
        self.plan.refused[name] = "small last layer: float32 is as fast and exact"
        self.float[group.last] = self._call(name, head, self.as_float(group.inputs[0]))
        return True

    def _other(self, node: fx.Node) -> None:
        """Copy an operator that has no group, in the form its input has where that changes
        nothing."""
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        if node.target is aten.sym_size.int and first is not None:
            forms = (self.uint8, self.float, self.half, self.plain)
            value = next(form[first] for form in forms if first in form)
            self.float[node] = self.graph.call_method("size", (value, node.args[1]))
            return
        form, fetch_first = self.float, self.as_float
        if node.target in VIEWS and first in self.half:
            form, fetch_first = self.half, self.as_half
        elif node.target in TRANSPARENT and (first in self.uint8 or first in self.plain):
            form, fetch_first = self.uint8, self.as_uint8

        def fetch(argument: fx.Node) -> fx.Node:
            return fetch_first(argument) if argument is first else self.as_float(argument)

        args, kwargs = fx.map_arg(node.args, fetch), fx.map_arg(node.kwargs, fetch)
        form[node] = copy_call(self.graph, node, args, kwargs)
        if form is self.uint8 and first in self.affines:
            self.affines[node] = self.affines[first]


def _feeds_attention(node: fx.Node) -> bool:
    """Whether views of `node` go nowhere but into attention."""
    attention = aten.scaled_dot_product_attention.default
    return bool(node.users) and all(
        user.target is attention or (user.target in VIEWS and _feeds_attention(user))
        for user in node.users
    )
