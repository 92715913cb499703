"""The values already written into a new graph, each in the forms that were asked for."""

import operator
from collections.abc import Callable

from torch import fx, nn

from optimize.lowering.graphs import constant
from optimize.lowering.kernels import onednn, quantized
from optimize.lowering.passes.unpad import Pack, Packing, Tokens, Unpack
from optimize.lowering.qparams import QParams

FLOAT, HALF, UINT8, PLAIN = "float", "half", "uint8", "plain"
_LAYOUTS = (False, True)


class Forms:
    """A value exists as `float` (or as it is, ids say), `half` (bfloat16), `uint8` (a quantized
    tensor, with its scale) or `plain` (uint8 numbers), and on the padded batch or on the list
    of tokens. A missing form is made on first demand."""

    def __init__(
        self,
        source: fx.GraphModule,
        graph: fx.Graph,
        call: Callable[..., fx.Node],
        qparams: dict[fx.Node, QParams],
        packing: Packing | None,
        fill: bool,
    ) -> None:
        self.source, self.graph, self.call = source, graph, call
        self.qparams, self.packing, self.fill = qparams, packing, fill
        self.made: dict[tuple[fx.Node, str, bool], fx.Node] = {}
        self.tokens: tuple[fx.Node, fx.Node, fx.Node] | None = None
        self.batch: fx.Node | None = None

    def put(self, node: fx.Node, form: str, value: fx.Node, packed: bool = False) -> None:
        self.made[node, form, packed] = value

    def has(self, node: fx.Node | None, *forms: str) -> bool:
        return node is not None and any(
            (node, f, packed) in self.made for f in forms for packed in _LAYOUTS
        )

    def get(self, node: fx.Node, form: str, packed: bool = False) -> fx.Node:
        if node.op == "get_attr":
            packed = False
        key = (node, form, packed)
        if key not in self.made:
            if (node, form, not packed) in self.made:
                self.made[key] = self._lay(self.made[node, form, not packed], packed)
            elif any((node, f, packed) in self.made for f in (FLOAT, HALF, UINT8, PLAIN)):
                self.made[key] = self._convert(node, form, packed)
            elif node.op == "get_attr":
                self.made[node, FLOAT, packed] = self._constant(node)
                if form != FLOAT:
                    self.made[key] = self._convert(node, form, packed)
            else:
                self.made[key] = self._lay(self.get(node, form, not packed), packed)
        return self.made[key]

    def float_or_half(self, node: fx.Node, packed: bool = False) -> fx.Node:
        return self.get(node, HALF if self.has(node, HALF) else FLOAT, packed)

    def starts(self) -> fx.Node:
        """Where each sequence starts on the list."""
        return self._tokens()[2]

    def _constant(self, node: fx.Node) -> fx.Node:
        name = str(node.target).replace(".", "_")
        self.call.__self__.root.register_buffer(name, constant(self.source, node))  # type: ignore
        return self.graph.get_attr(name)

    def _convert(self, node: fx.Node, form: str, packed: bool) -> fx.Node:
        made = self.made
        if form == FLOAT:
            if (node, HALF, packed) in made:
                return self.graph.call_method("float", (made[node, HALF, packed],))
            return self.call("dequantize", quantized.Dequantize(), self.get(node, UINT8, packed))
        if form == UINT8:
            if (node, PLAIN, packed) in made:
                wrap = onednn.Wrap(self.qparams[node])
                return self.call("wrap", wrap, made[node, PLAIN, packed])
            kernel: nn.Module = quantized.Quantize(self.qparams[node])
            return self.call("quantize", kernel, self.get(node, FLOAT, packed))
        if form == PLAIN:
            if (node, UINT8, packed) in made:
                return self.call("reveal", onednn.Reveal(), made[node, UINT8, packed])
            kernel = onednn.ToPlain(self.qparams[node])
            return self.call("quantize", kernel, self.float_or_half(node, packed))
        raise AssertionError(form)

    def _tokens(self) -> tuple[fx.Node, fx.Node, fx.Node]:
        if self.tokens is None:
            assert self.packing is not None
            made = self.call("tokens", Tokens(self.fill), self.get(self.packing.mask, FLOAT))
            parts = [self.graph.call_function(operator.getitem, (made, i)) for i in range(3)]
            self.tokens = (parts[0], parts[1], parts[2])
        return self.tokens

    def _lay(self, value: fx.Node, packed: bool) -> fx.Node:
        index, inverse, _ = self._tokens()
        if packed:
            return self.call("pack", Pack(), value, index)
        assert self.batch is not None
        return self.call("unpack", Unpack(), value, inverse, self.batch)
