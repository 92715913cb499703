"""Transformers without their padding: one flat list of real tokens, sequence after sequence.

Work on padding is left out as in ByteTransformer (Zhai et al. 2023): linear layers and norms
run on `[tokens, width]`, attention runs sequence by sequence. The answer is the padded model's
as long as padding is masked in every attention and read by nothing else, which
`find_packing` tries out.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from optimize.lowering.graphs import VIEWS, arguments, aten, constant

_ELEMENTWISE = (
    aten.gelu.default,
    aten.relu.default,
    aten.silu.default,
    aten.tanh.default,
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.mul.Tensor,
)
_SAME_VALUES = (aten.expand.default, aten.slice.Tensor, aten.alias.default)
_TOLERANCE = 1e-4


@dataclass
class Packing:
    """Where padding is left out.

    Attributes:
        mask: the bool node `[N, 1, 1, L]`, true for real tokens, that every attention uses.
        nodes: those computed token by token, hence on the list.
    """

    mask: fx.Node
    nodes: set[fx.Node] = field(default_factory=set)


def find_packing(module: fx.GraphModule, batch: Tensor) -> Packing | None:
    """The packing of a model of ids `[N, L]`, None where padding may matter.

    Args:
        module: captured, its length free.
        batch: real ids; the second half of one sequence is replaced by padding (id 0).
    """
    ids = next(n for n in module.graph.nodes if n.op == "placeholder")
    shape = _sizes(ids)
    masks = set()
    for node in module.graph.nodes:
        if node.target is aten.scaled_dot_product_attention.default:
            masks.add(_base(arguments(node)[3]))
    mask = masks.pop() if len(masks) == 1 else None
    if mask is None or len(shape) != 2 or _sizes(mask) != (shape[0], "1", "1", shape[1]):
        return None
    _move_to_front(ids, mask)
    packing = Packing(mask)
    for node in module.graph.nodes:
        if _tokenwise(module, node, shape):
            packing.nodes.add(node)
    probe = batch[:2].clone()
    probe[1, probe.shape[1] // 2 :] = 0
    with torch.no_grad():
        expected, seen = module(probe), _Disturbed(module, packing)
        actual = seen.run(probe)
    if seen.padding == 0 or not isinstance(actual, Tensor):
        return None
    error = (actual - expected).norm() / expected.norm().clamp(min=1e-12)
    return packing if error.item() < _TOLERANCE else None


def _move_to_front(ids: fx.Node, last: fx.Node) -> None:
    """Compute `last`, and what it needs, right after the input."""
    needed, open_nodes = {last}, [last]
    while open_nodes:
        for node in open_nodes.pop().all_input_nodes:
            if node not in needed and node.op != "placeholder":
                needed.add(node)
                open_nodes.append(node)
    anchor = ids
    for node in [n for n in ids.graph.nodes if n in needed]:
        anchor.append(node)
        anchor = node


def _sizes(node: fx.Node) -> tuple[str, ...]:
    value = node.meta.get("val")
    return tuple(str(s) for s in value.shape) if isinstance(value, Tensor) else ()


def _base(mask: Any) -> fx.Node | None:
    """The node whose numbers a mask repeats."""
    while isinstance(mask, fx.Node) and mask.target in _SAME_VALUES:
        source = mask.args[0]
        if mask.target is aten.slice.Tensor and _sizes(source) != _sizes(mask):  # type: ignore[arg-type]
            break
        mask = source
    return mask if isinstance(mask, fx.Node) and mask.meta["val"].dtype is torch.bool else None


def _tokenwise(module: fx.GraphModule, node: fx.Node, shape: tuple[str, ...]) -> bool:
    """Whether a node computes `[N, L, C]` from the same token of its operands alone."""
    sizes = _sizes(node)
    if len(sizes) != 3 or sizes[:2] != shape:
        return False
    if node.target is aten.linear.default:
        return constant(module, node.args[1]) is not None
    if node.target is aten.layer_norm.default:
        return len(arguments(node)[1]) == 1
    if node.target not in _ELEMENTWISE:
        return False
    return all(
        _sizes(operand) == sizes or (constant(module, operand) is not None and _flat(operand))
        for operand in node.all_input_nodes
    )


def _flat(node: fx.Node) -> bool:
    return len(_sizes(node)) <= 1


class _Disturbed(fx.Interpreter):
    """Runs the padded model with noise in place of what packing leaves out."""

    def __init__(self, module: fx.GraphModule, packing: Packing) -> None:
        super().__init__(module)
        self.packing, self.padding = packing, 0
        self.mask: Tensor | None = None
        self.noise = torch.Generator().manual_seed(0)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n is self.packing.mask:
            self.mask = result
        if n in self.packing.nodes:
            assert self.mask is not None  # moved to the front
            real = self.mask.reshape(*result.shape[:2], 1)
            self.padding += int((~real).sum())
            noise = torch.randn(result.shape, generator=self.noise)
            return torch.where(real, result, noise)
        return result


class Tokens(nn.Module):
    """The list of real tokens of a mask `[N, 1, 1, L]`.

    Returns the positions in the padded batch of each token on the list; the place on the list
    of each position (any, for padding); and where each sequence starts, with the end. With
    `fill` the list is filled up to a round number with copies of the first token, as a oneDNN
    kernel of a new shape is slow once; FBGEMM's kernels take any number alike.
    """

    def __init__(self, fill: bool) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, mask: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        flat = mask.reshape(-1)
        index = flat.nonzero().reshape(-1)
        lengths: list[int] = mask.reshape(mask.size(0), -1).sum(1).tolist()
        starts = [0]
        for length in lengths:
            starts.append(starts[-1] + length)
        inverse = (flat.cumsum(0) - 1).clamp(min=0)
        count = index.size(0)
        if not self.fill and count > 0:
            return index, inverse, starts
        step = 4 if count <= 128 else 8 if count <= 512 else 16
        surplus = (step - count % step) % step if count > 0 else step
        if surplus > 0:
            index = torch.cat([index, torch.zeros([surplus], dtype=torch.long)])
        return index, inverse, starts


class Pack(nn.Module):
    """`[N, L, C]` to `[tokens, C]`."""

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.reshape(-1, x.size(-1)).index_select(0, index)


class Unpack(nn.Module):
    """`[tokens, C]` to `[N, L, C]`; what stands in the place of padding is of no account."""

    def forward(self, x: Tensor, inverse: Tensor, batch: int) -> Tensor:
        return x.index_select(0, inverse).reshape(batch, -1, x.size(-1))


def probe_views(node: fx.Node, source: fx.Node, value: Tensor, sizes: dict[str, int]) -> Any:
    """What `node`, a view of `source` through views alone, is for the numbers `value`.

    Args:
        sizes: the free sizes by name.

    Raises:
        LookupError: something on the way is no view of `source`.
    """
    known: dict[fx.Node, Any] = {source: value}

    def find(n: Any) -> Any:
        if not isinstance(n, fx.Node):
            return n
        if n not in known:
            known[n] = compute(n)
        return known[n]

    def compute(n: fx.Node) -> Any:
        if n.target is aten.sym_size.int or getattr(n.target, "__module__", "") == "_operator":
            name = str(n.meta.get("val"))
            if name in sizes:
                return sizes[name]
        if n.target is aten.sym_size.int or n.op != "call_function":
            raise LookupError(n.name)
        if n.target not in VIEWS and getattr(n.target, "__module__", "") != "_operator":
            raise LookupError(n.name)
        assert callable(n.target)  # its op is call_function
        return n.target(*fx.map_arg(n.args, find), **fx.map_arg(n.kwargs, find))

    return find(node)
