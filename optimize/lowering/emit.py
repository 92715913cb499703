"""Write the quantized graph: walk the float one and put kernels in place of groups."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx, nn

from optimize.lowering.blame import blamed, note_layer
from optimize.lowering.graphs import (
    VIEWS,
    arguments,
    aten,
    constant,
    copy_call,
    feeds_attention,
    layer_name,
)
from optimize.lowering.kernels import onednn, quantized, shape_cached, weights
from optimize.lowering.kernels.attention import (
    Attention,
    MaskedAttention,
    TokenAttention,
    UniformAttention,
)
from optimize.lowering.kernels.rowwise import RowwiseLinear
from optimize.lowering.passes.pooling import averaged_map
from optimize.lowering.passes.zero_points import Offsets
from optimize.lowering.plan import TRANSPARENT, Group, Plan
from optimize.lowering.qparams import QParams, quantize_channels
from optimize.lowering.values import FLOAT, HALF, PLAIN, UINT8, Forms

# By whether there are copies for batch sizes, and whether an addition is fused.
_CONVOLUTIONS: dict[tuple[bool, bool], Callable[..., nn.Module]] = {
    (False, False): quantized.Convolution,
    (False, True): quantized.ConvolutionAdd,
    (True, False): shape_cached.HotConvolution,
    (True, True): shape_cached.HotConvolutionAdd,
}


class Emitter:
    """One walk over a captured graph, which follows its plan.

    Args:
        source: the captured graph.
        plan: what becomes of it; read only.
        qparams: of every tensor that a quantized kernel reads or writes.
        pixels: of uint8 images that are read as they are; None for float input.
        offsets: zero points that are in the biases.
        hot_batch: a batch size to keep kernels ready for.
        table_bits: of the plan's tables, 8 or 4.
    """

    def __init__(
        self,
        source: fx.GraphModule,
        plan: Plan,
        qparams: dict[fx.Node, QParams],
        pixels: QParams | None,
        offsets: Offsets,
        hot_batch: int | None,
        table_bits: int = 8,
    ) -> None:
        self.source, self.plan, self.qparams, self.pixels = source, plan, qparams, pixels
        self.offsets, self.hot_batch, self.table_bits = offsets, hot_batch, table_bits
        self.lane: fx.Node | None = None
        self.root, self.graph = nn.Module(), fx.Graph()
        self.forms = Forms(source, self.graph, self.call, qparams, plan.packing, plan.onednn)

    def emit(self) -> nn.Module:
        for node in self.source.graph.nodes:
            with blamed(layer_name(node), "cannot be quantized"):
                self._node(node)
            note_layer(self.graph, layer_name(node))
        body = fx.GraphModule(self.root, self.graph)
        body.graph.eliminate_dead_code()
        body.delete_all_unused_submodules()
        used = {n.target for n in body.graph.nodes if n.op == "get_attr"}
        for name in [n for n, _ in body.named_buffers(recurse=False) if n not in used]:
            delattr(body, name)
        body.recompile()
        return body.eval()

    def _node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self._placeholder(node)
        elif node in self.plan.groups:
            self._group(self.plan.groups[node])
        elif node.op == "output":
            outputs: Any = node.args[0]
            results = tuple(self.forms.get(result, FLOAT) for result in outputs)
            self.graph.output(results[0] if len(results) == 1 else results)
        elif node.op != "get_attr" and node not in self.plan.inner:
            self._other(node)

    def call(self, name: str, module: nn.Module, *args: fx.Node | list[fx.Node]) -> fx.Node:
        """Write a call of `module`, under its name or the next free one."""
        path = name.replace(".", "_")
        while hasattr(self.root, path):
            path += "_"
        self.root.add_module(path, module)
        return self.graph.call_module(path, args)

    def _packed(self, node: fx.Node) -> bool:
        return self.plan.packing is not None and node in self.plan.packing.nodes

    def _placeholder(self, node: fx.Node) -> None:
        copied = self.graph.placeholder("x" if node.prev.op == "root" else node.name)
        if self.plan.packing is not None and self.forms.batch is None:
            self.forms.batch = self.graph.call_method("size", (copied, 0))
        if self.hot_batch is not None and self.lane is None:
            self.lane = self.call("lane", shape_cached.Lane(self.hot_batch), copied)
        if self.pixels is None:
            self.forms.put(node, FLOAT, copied)
            if self.lane is not None and node in self.qparams and node.meta["val"].dim() == 4:
                image = self.call("quantize", onednn.QuantizeImage(self.qparams[node]), copied)
                self.forms.put(node, UINT8, image)
        else:
            pixels = self.call("pixels", quantized.Pixels(self.pixels), copied)
            self.forms.put(node, UINT8, pixels)

    def _weights(self, node: fx.Node) -> tuple[Tensor, Tensor | None]:
        weight = constant(self.source, node.args[1])
        assert weight is not None  # the plan took only stored weights
        return weight, constant(self.source, arguments(node)[2])

    def _group(self, group: Group) -> None:
        name, packed = layer_name(group.node), self._packed(group.last)
        if group.kind == "self_attention":
            self._self_attention(group, packed)
        elif group.kind == "attention":
            self._attention(group)
        elif group.kind in ("add", "cat"):
            output = self.qparams[group.last]
            reads = [self.forms.get(n, UINT8, packed) for n in group.inputs]
            if group.kind == "add":
                joined = self.call(name, quantized.Add(output), *reads)
            else:
                dim = arguments(group.node)[1]
                joined = self.call(name, quantized.Concatenate(dim, output), reads)
            self.forms.put(group.last, UINT8, joined, packed)
        elif group.kind == "head":
            self._head(name, group, packed)
        elif group.kind == "conv" or not self.plan.transformer or self._chained(group):
            self.forms.put(group.last, UINT8, self._weighted(name, group, packed), packed)
        elif self.plan.onednn:
            self._pointwise_linear(name, group, packed)
        else:
            self._static_linear(name, group, packed)

    def _self_attention(self, group: Group, packed: bool) -> None:
        source = self.forms.float_or_half(group.inputs[0], packed)
        if packed:
            kernel: nn.Module = TokenAttention(group.heads)
            made = self.call("attention", kernel, source, self.forms.starts())
        else:
            length = group.inputs[0].meta["val"].shape[1]
            kernel = UniformAttention(group.heads, 1 if isinstance(length, int) else 16)
            made = self.call("attention", kernel, source)
        self.forms.put(group.last, FLOAT, made, packed)

    def _attention(self, group: Group) -> None:
        given, mask = arguments(group.node)[6], arguments(group.node)[3]
        width = group.node.args[0].meta["val"].shape[-1]  # type: ignore[union-attr]
        scale = float(width**-0.5 if given is None else given)
        reads = [self.forms.float_or_half(n) for n in group.inputs]
        if mask is None:
            made = self.call("attention", Attention(scale), *reads)
        else:
            reads.append(self.forms.get(mask, FLOAT))
            made = self.call("attention", MaskedAttention(scale), *reads)
        self.forms.put(group.last, HALF, made)

    def _chained(self, group: Group) -> bool:
        """Whether uint8 goes straight from this linear layer into other quantized kernels."""
        return group.post == "none" and self._read_as_uint8(group.last)

    def _read_as_uint8(self, node: fx.Node) -> bool:
        quantized = {g.node: g for g in self.plan.groups.values() if "attention" not in g.kind}
        return bool(node.users) and all(
            user in quantized and node in quantized[user].reads() for user in node.users
        )

    def _pointwise_linear(self, name: str, group: Group, packed: bool) -> None:
        weight, bias = self._weights(group.node)
        output, to = None, onednn.FLOAT32
        if group.post != "none" and self._read_as_uint8(group.last):
            output, to = self.qparams[group.last], onednn.UINT8
        elif self.plan.half_attention and feeds_attention(group.last):
            to = onednn.BFLOAT16
        post, algorithm = group.post, "none"
        if post == "gelu_tanh":
            post, algorithm = "gelu", "tanh"
        elif post == "none" and group.relu:
            post = "relu"
        source = group.inputs[0]
        read = self.forms.get(source, PLAIN, packed)
        stored = quantize_channels(weight)
        kernel = onednn.PointwiseLinear(
            stored, bias, self.qparams[source], post, algorithm, to, output
        )
        form = {onednn.FLOAT32: FLOAT, onednn.BFLOAT16: HALF, onednn.UINT8: PLAIN}[to]
        self.forms.put(group.last, form, self.call(name, kernel, read), packed)

    def _static_linear(self, name: str, group: Group, packed: bool) -> None:
        weight, bias = self._weights(group.node)
        source = group.inputs[0]
        read = self.forms.get(source, FLOAT, packed)
        kernel = quantized.StaticLinear(
            quantize_channels(weight), bias, self.qparams[source], group.relu
        )
        self.forms.put(group.last, FLOAT, self.call(name, kernel, read), packed)

    def _weighted(self, name: str, group: Group, packed: bool) -> fx.Node:
        """A convolution or linear layer, in copies when there is a hot batch size."""
        weight, bias = self._weights(group.node)
        stored = quantize_channels(weight)
        output = self.qparams[group.last]
        reads = [self.forms.get(n, UINT8, packed) for n in group.reads()]
        if self.lane is not None:
            reads.append(self.lane)
        if group.kind == "linear":
            make_linear = quantized.Linear if self.lane is None else shape_cached.HotLinear
            return self.call(name, make_linear(stored, bias, output), *reads)
        bias = self.offsets.bias(group, stored, bias)
        make = _CONVOLUTIONS[self.lane is not None, group.other is not None]
        shape = arguments(group.node)[3:7]
        return self.call(name, make(stored, bias, *shape, output=output), *reads)

    def _head(self, name: str, group: Group, packed: bool) -> None:
        """A small last layer stays float32: exact logits for the price of one dequantize."""
        weight, bias = self._weights(group.node)
        source = group.inputs[0]
        averaged = averaged_map(source) if self.plan.packing is None else None
        if averaged is None:
            read = self.forms.get(source, FLOAT, packed)
        else:
            weight = weight / averaged[1]
            feature_map = self.forms.get(averaged[0], FLOAT)
            read = self.call("pool", quantized.SumPositions(), feature_map)
        head: nn.Module
        if self.plan.packing is not None:
            head = RowwiseLinear(weight, bias)
        else:
            head = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
            head.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})
        self.forms.put(group.last, FLOAT, self.call(name, head, read), packed)

    def _other(self, node: fx.Node) -> None:
        """Copy an operator that has no group, in the form its input has where that changes
        nothing."""
        forms, packed = self.forms, self._packed(node)
        first = node.all_input_nodes[0] if node.all_input_nodes else None
        if node.target is aten.sym_size.int and first is not None:
            forms.put(node, FLOAT, self._size(first, node))
            return
        if node in self.plan.tables:
            self._embedding(node)
            return
        form = FLOAT
        if node.target in VIEWS and forms.has(first, HALF):
            form = HALF
        elif node.target in TRANSPARENT and forms.has(first, UINT8, PLAIN):
            form = UINT8

        def fetch(argument: fx.Node) -> fx.Node:
            return forms.get(argument, form if argument is first else FLOAT, packed)

        if (own := self._own_sum(node)) is not None:
            other = node.args[1] if own is node.args[0] else node.args[0]
            given = (forms.get(own, FLOAT, packed), forms.get(other, FLOAT, packed))  # type: ignore
            forms.put(node, FLOAT, self.graph.call_method("add_", given), packed)
            return
        args, kwargs = fx.map_arg(node.args, fetch), fx.map_arg(node.kwargs, fetch)
        scripted = self.plan.transformer or self.hot_batch is not None
        copied = copy_call(self.graph, node, args, kwargs, scripted=scripted)
        forms.put(node, form, copied, packed)
        if form == UINT8 and first in self.qparams:
            self.qparams[node] = self.qparams[first]

    def _own_sum(self, node: fx.Node) -> fx.Node | None:
        """The operand of an addition that may be overwritten: what a linear kernel has just
        written, of the sum's shape, and read by nothing else."""
        if node.target is not aten.add.Tensor or arguments(node)[2] != 1:
            return None
        if len(node.all_input_nodes) != 2:
            return None
        shape = node.meta["val"].shape
        for operand in node.args[:2]:
            group = self.plan.groups.get(operand)  # type: ignore[arg-type]
            if group is None or group.kind != "linear" or len(operand.users) != 1:  # type: ignore
                continue
            if operand.meta["val"].shape == shape and self.forms.has(operand, FLOAT):  # type: ignore
                return operand  # type: ignore[return-value]
        return None

    def _size(self, of: fx.Node, node: fx.Node) -> fx.Node:
        """A free size, read from the model's input where that has it: always there, unpacked."""
        name = str(node.meta.get("val"))
        source, axis = of, node.args[1]
        for given in self.source.graph.find_nodes(op="placeholder"):
            axes = [str(s) for s in given.meta["val"].shape]
            if name in axes:
                source, axis = given, axes.index(name)
                break
        form = next(f for f in (UINT8, FLOAT, HALF, PLAIN) if self.forms.has(source, f))
        return self.graph.call_method("size", (self.forms.get(source, form), axis))

    def _embedding(self, node: fx.Node) -> None:
        """A large table of embeddings is stored in int8, a scale per row, or in 4 bits."""
        table = constant(self.source, node.args[0])
        assert table is not None  # the plan took only stored tables
        ids = self.forms.get(node.args[1], FLOAT)  # type: ignore[arg-type]
        four = self.table_bits == 4 and table.shape[1] % 2 == 0
        kernel = weights.Int4Embedding(table) if four else weights.Int8Embedding(table)
        lookup = self.call(layer_name(node), kernel, ids)
        self.forms.put(node, FLOAT, lookup)
