"""Which operators of a captured graph become which quantized kernels."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import fx

from optimize.lowering.graphs import (
    RECURRENT,
    arguments,
    aten,
    constant,
    is_named,
    layer_name,
)
from optimize.lowering.passes.attention import find_self_attention, fold_scale
from optimize.lowering.passes.unpad import Packing

Kind = Literal["conv", "linear", "head", "add", "cat", "attention", "self_attention"]

WEIGHTED = (aten.conv2d.default, aten.linear.default)

# A float32 classifier this small costs less than quantizing its input.
_SMALL_HEAD = 1 << 16
# Below this a table of embeddings is not worth rounding.
_LARGE_TABLE = 1 << 18

# One uint8 tensor in, one out, scale and zero point unchanged.
TRANSPARENT = (
    aten.max_pool2d.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.constant_pad_nd.default,
    aten.flip.default,
    aten.relu.default,
)


@dataclass
class Group:
    """One quantized kernel: the operator it is named for and what is fused into it.

    Attributes:
        kind: the kernel; "head" is a small last linear layer, in float32.
        node: the convolution, linear, add or cat.
        last: the node whose value the kernel returns.
        inputs: the activations it reads, at most one for conv and linear.
        other: the tensor a fused convolution adds to (and overwrites).
        relu: whether the kernel clamps below at zero.
        heads: of a self-attention whose input is queries, keys and values in one.
        post: GELU inside a linear kernel: "none", "gelu" or "gelu_tanh".
    """

    kind: Kind
    node: fx.Node
    last: fx.Node
    inputs: list[fx.Node]
    other: fx.Node | None = None
    relu: bool = False
    post: str = "none"
    heads: int = 0
    fused: list[fx.Node] = field(default_factory=list)

    def reads(self) -> list[fx.Node]:
        """Every activation the kernel reads."""
        return [*self.inputs, *([] if self.other is None else [self.other])]


@dataclass
class Plan:
    """What becomes of a captured graph.

    Attributes:
        groups: by the node whose value the kernel returns.
        tables: embedding lookups whose table is stored in int8.
        inner: nodes that vanish into a kernel.
        refused: layers that stay float, with the reason.
        onednn: whether oneDNN's kernels may be used, with additions inside convolutions and
            GELU inside linear layers; FBGEMM's otherwise.
        transformer: whether linear layers return float32 or bfloat16 and attention has kernels.
        packing: where padding is left out, None for nowhere.
        half_attention: whether oneDNN's queries, keys and values are bfloat16.
    """

    groups: dict[fx.Node, Group] = field(default_factory=dict)
    tables: set[fx.Node] = field(default_factory=set)
    inner: set[fx.Node] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    onednn: bool = True
    transformer: bool = False
    packing: Packing | None = None
    half_attention: bool = True

    def lowered(self) -> list[str]:
        """Names of the layers that run or are stored in int8, in the order of the graph."""
        weighted = {last: g.node for last, g in self.groups.items() if g.kind in ("conv", "linear")}
        layers = weighted | {node: node for node in self.tables}
        names: list[str] = []
        for node in next(iter(layers)).graph.nodes if layers else ():
            if node in layers:
                names += layers[node].meta.get("names", [layer_name(layers[node])])
        return names

    def fuses_gelu(self) -> bool:
        return self.transformer and self.onednn

    def observed(self) -> list[fx.Node]:
        """Every tensor that a quantized kernel reads or writes."""
        nodes: dict[fx.Node, None] = {}
        for group in self.groups.values():
            if "attention" not in group.kind:
                nodes.update(dict.fromkeys([*group.reads(), group.last]))
        return list(nodes)


def _sole_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _clamps_at_zero(node: fx.Node | None) -> bool:
    """ReLU, or a clamp to [0, m]: uint8 saturation does the upper half."""
    if node is None:
        return False
    if node.target is aten.relu.default:
        return True
    if node.target in (aten.hardtanh.default, aten.clamp.default):
        low, high = arguments(node)[1:3]
        return low == 0 and (high is None or isinstance(high, (int, float)))
    return False


def _shape(node: fx.Node) -> tuple[object, ...]:
    return tuple(str(s) for s in node.meta["val"].shape)


def _same_shape(add: fx.Node) -> bool:
    a, b = add.args[:2]
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return False
    if "val" not in a.meta or "val" not in b.meta or a.op == "get_attr" or b.op == "get_attr":
        return False
    return _shape(a) == _shape(b) and arguments(add)[2] == 1


def make_plan(
    module: fx.GraphModule,
    *,
    onednn: bool = True,
    transformer: bool = False,
    packing: Packing | None = None,
    keep_float: Collection[str] = (),
) -> Plan:
    """Group the graph's operators into quantized kernels, all but those of the layers named in
    `keep_float`; see `Plan` for the choices."""
    plan = Plan(onednn=onednn, transformer=transformer, packing=packing)
    order = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in module.graph.nodes:
        if node in plan.inner or node in plan.groups:
            continue
        if node.target in WEIGHTED and is_named(layer_name(node), keep_float):
            plan.refused[layer_name(node)] = "kept in float on request"
        elif node.target in WEIGHTED:
            _plan_weighted(module, node, plan, order)
        elif node.target is aten.embedding.default:
            if _is_large_table(module, node) and not is_named(layer_name(node), keep_float):
                plan.tables.add(node)
        elif node.target is aten.add.Tensor and _same_shape(node) and _worth_adding(node, plan):
            _finish(Group("add", node, node, list(node.args[:2])), plan)
        elif node.target is aten.cat.default and _worth_joining(node, plan):
            _finish(Group("cat", node, node, list(node.args[0])), plan)
        elif transformer and node.target is aten.scaled_dot_product_attention.default:
            _plan_attention(module, node, plan)
        elif node.target in RECURRENT:
            plan.refused[layer_name(node)] = "a recurrent layer: it has no quantized kernel"
        elif str(node.target).startswith("aten.conv"):
            plan.refused[layer_name(node)] = f"{node.target} has no quantized kernel"
    return plan


def _plan_attention(module: fx.GraphModule, node: fx.Node, plan: Plan) -> None:
    """Self-attention in one kernel where nothing is masked but padding; else attention without
    causality, dropout or shared keys."""
    mask, dropout, causal, _, shared = arguments(node)[3:8]
    packed = plan.packing is not None
    found = find_self_attention(module, node) if mask is None or packed else None
    if found is not None and (not packed or found.source in plan.packing.nodes):  # type: ignore
        fold_scale(module, found)
        group = Group("self_attention", node, found.last, [found.source], heads=found.heads)
        plan.groups[found.last] = group
        between = found.last.args[0]
        while between is not node:
            plan.inner.add(between)  # type: ignore[arg-type]
            between = between.args[0]  # type: ignore[union-attr]
        plan.inner.add(node)
        if packed:
            plan.packing.nodes.add(found.last)  # type: ignore[union-attr]
        return
    query = node.args[0].meta["val"]  # type: ignore[union-attr]
    plain = dropout == 0 and not causal and not shared
    if plain and query.dim() == 4 and query.dtype == torch.float32:
        reads: list[fx.Node] = list(node.args[:3])  # type: ignore[arg-type]
        plan.groups[node] = Group("attention", node, node, reads)


def _plan_weighted(
    module: fx.GraphModule, node: fx.Node, plan: Plan, order: dict[fx.Node, int]
) -> None:
    weight = constant(module, node.args[1])
    given = arguments(node)[2]
    if weight is None or (given is not None and constant(module, given) is None):
        plan.refused[layer_name(node)] = "its weight is computed, not stored"
        return
    if constant(module, node.args[0]) is not None:
        plan.refused[layer_name(node)] = "its input is a constant"
        return
    if node.meta["val"].dtype != torch.float32:
        plan.refused[layer_name(node)] = f"it computes in {node.meta['val'].dtype}"
        return
    kind: Kind = "conv" if node.target is aten.conv2d.default else "linear"
    group = Group(kind, node, node, node.all_input_nodes[:1])
    if kind == "conv" and plan.onednn:
        _fuse_add(group, plan, order)
    _finish(group, plan)
    if kind == "linear" and weight.numel() <= _SMALL_HEAD and _is_last(group):
        group.kind = "head"
        plan.refused[layer_name(node)] = "small last layer: float32 is as fast and exact"


def _is_large_table(module: fx.GraphModule, lookup: fx.Node) -> bool:
    table = constant(module, lookup.args[0])
    return table is not None and table.is_floating_point() and table.numel() >= _LARGE_TABLE


def _is_last(group: Group) -> bool:
    """Whether what a linear layer writes is the model's output, and nothing else."""
    plain = not group.relu and group.post == "none"
    return plain and all(user.op == "output" for user in group.last.users)


def _fuse_add(group: Group, plan: Plan, order: dict[fx.Node, int]) -> None:
    """Add into `other` inside the kernel when the convolution is its last reader."""
    add = _sole_user(group.node)
    if add is None or add.target is not aten.add.Tensor or not _same_shape(add):
        return
    a, b = add.args[:2]
    other = b if a is group.node else a
    if not isinstance(other, fx.Node) or other is group.node or other is group.inputs[0]:
        return
    if other not in plan.groups or group.node.meta["val"].dim() != 4:
        return
    readers = [user for user in other.users if user is not add]
    if any(order[_emitted_at(user, plan)] >= order[add] for user in readers):
        return
    group.other, group.last = other, add
    group.fused.append(add)


def _emitted_at(node: fx.Node, plan: Plan) -> fx.Node:
    """The node in whose place `node` is computed; itself when it is not fused."""
    for group in plan.groups.values():
        if node is group.node or node in group.fused:
            return group.last
    follower = _sole_user(node)
    return follower if follower is not None and _clamps_at_zero(follower) else node


def _finish(group: Group, plan: Plan) -> None:
    follower = _sole_user(group.last)
    gelu = follower is not None and follower.target is aten.gelu.default
    if follower is not None and gelu and group.kind == "linear" and plan.fuses_gelu():
        tanh = arguments(follower)[1] == "tanh"
        group.last, group.post = follower, "gelu_tanh" if tanh else "gelu"
        group.fused.append(follower)
    if follower is not None and group.kind != "cat" and _clamps_at_zero(follower):
        group.last, group.relu = follower, True
        group.fused.append(follower)
    plan.groups[group.last] = group
    plan.inner.update(n for n in [group.node, *group.fused] if n is not group.last)


def is_quantized(node: fx.Node, plan: Plan) -> bool:
    """Whether `node` is uint8 already when it is computed."""
    while node.target in TRANSPARENT:
        node = node.args[0]  # type: ignore[assignment]
    return node in plan.groups


def _worth_adding(node: fx.Node, plan: Plan) -> bool:
    return all(isinstance(n, fx.Node) and is_quantized(n, plan) for n in node.args[:2])


def _worth_joining(node: fx.Node, plan: Plan) -> bool:
    parts = node.args[0]
    return isinstance(parts, (list, tuple)) and all(
        isinstance(n, fx.Node) and is_quantized(n, plan) for n in parts
    )
