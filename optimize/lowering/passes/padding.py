"""Zero padding that is not alike on both sides, made into padding that is.

torch's convolutions pad both sides alike; TensorFlow's "SAME" with stride 2 pads more at the
end, and ports of such models pad in an operator of its own, which costs a copy of the whole
activation. Two exact rewrites avoid it. A kernel grown by zeros at its front may start
earlier, at the price of the multiplications by zero. Better: convolution commutes with
mirroring, so on a mirrored picture with mirrored kernels the larger padding is at the front,
where symmetric padding reaches as far and the stride skips the surplus at the end.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, fx
from torch.nn import functional as F

from optimize.lowering.graphs import arguments, aten, constant, replace_constant

_PADS = (aten.pad.default, aten.constant_pad_nd.default)
_POINTWISE = {
    "relu", "hardtanh", "clamp", "sigmoid", "silu", "hardswish", "hardsigmoid", "gelu", "tanh",
    "elu", "leaky_relu", "add", "sub", "mul", "div", "neg", "exp",
}  # fmt: skip


@dataclass
class _Window:
    """One convolution along both spatial axes; `before` and `after` as far as they are read."""

    conv: fx.Node
    padded: bool
    size: list[int]
    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]
    mirrored: list[bool]

    def growth(self, axis: int, mirror: bool) -> int:
        """Zeros to put before the kernel so that symmetric padding serves."""
        before, after = self.before[axis], self.after[axis]
        return max(0, before - after if mirror else after - before)


def settle_padding(module: fx.GraphModule) -> None:
    """Merge zero padding into the convolutions that follow it, mirroring the model on each
    axis where that saves growing kernels."""
    windows = [w for n in module.graph.nodes if (w := _window(module, n)) is not None]
    if not any(w.padded for w in windows):
        return
    dims = []
    for axis in (0, 1):
        plain = sum(w.growth(axis, False) for w in windows)
        mirrored = sum(w.growth(axis, True) for w in windows)
        if mirrored < plain and _mirrors(module, windows, axis):
            for window in windows:
                window.mirrored[axis] = True
            dims.append(axis + 2)
    if dims:
        _mirror_input(module, dims)
    for window in windows:
        _rewrite(module, window)


def _window(module: fx.GraphModule, node: fx.Node) -> _Window | None:
    if node.target is not aten.conv2d.default or constant(module, node.args[1]) is None:
        return None
    x, weight, _, stride, padding, dilation, _ = arguments(node)
    before, after, source = list(padding), list(padding), x
    if x.target in _PADS and len(x.users) == 1:
        pads, *mode = arguments(x)[1:]
        zero = mode in (["constant", None], ["constant", 0], ["constant", 0.0], [0], [0.0])
        if not zero or len(pads) != 4 or any(not isinstance(p, int) or p < 0 for p in pads):
            return None
        left, right, top, bottom = pads
        before, after = [before[0] + top, before[1] + left], [after[0] + bottom, after[1] + right]
        source = x.args[0]
    size = list(source.meta["val"].shape[2:])
    outputs = list(node.meta["val"].shape[2:])
    if any(not isinstance(s, int) for s in [*size, *outputs]):
        return None
    kernel = list(weight.meta["val"].shape[2:])
    for axis in (0, 1):
        span = (outputs[axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
        after[axis] = max(0, span - before[axis] - size[axis])
    window = _Window(
        node,
        source is not x,
        size,
        kernel,
        list(stride),
        list(dilation),
        before,
        after,
        [False, False],
    )
    grows = [a for a in (0, 1) if before[a] != after[a]]
    return None if any(dilation[a] != 1 for a in grows) and source is not x else window


def _mirrors(module: fx.GraphModule, windows: Iterable[_Window], axis: int) -> bool:
    """Whether everything between the input and the global pooling commutes with mirroring."""
    known = {w.conv for w in windows} | {w.conv.args[0] for w in windows}
    spatial: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            if node.meta["val"].dim() != 4:
                return False
            spatial.add(node)
            continue
        if node.op != "call_function" or not any(n in spatial for n in node.all_input_nodes):
            if node.op == "output" and any(n in spatial for n in node.all_input_nodes):
                return False
            continue
        name = str(node.target).split(".")[1] if "." in str(node.target) else str(node.target)
        if node in known:
            spatial.add(node)
        elif name == "sym_size" or _pools_everything(name, node):
            continue
        elif name in _POINTWISE:
            if not _pointwise_safe(node, spatial):
                return False
            spatial.add(node)
        elif name in ("max_pool2d", "avg_pool2d") and _pool_is_even(node, axis):
            spatial.add(node)
        else:
            return False
    return True


def _pools_everything(name: str, node: fx.Node) -> bool:
    if name == "adaptive_avg_pool2d":
        return list(node.args[1]) == [1, 1]  # type: ignore[arg-type]
    return name == "mean" and sorted(d % 4 for d in node.args[1]) == [2, 3]  # type: ignore


def _pointwise_safe(node: fx.Node, spatial: set[fx.Node]) -> bool:
    """Every operand is a feature map, a number, or constant over the picture."""
    for operand in node.all_input_nodes:
        if operand in spatial:
            continue
        value = operand.meta.get("val")
        if not isinstance(value, Tensor) or (value.dim() >= 2 and value.shape[-2:] != (1, 1)):
            return False
        if value.dim() == 1 and value.numel() != 1:
            return False
    return True


def _pool_is_even(node: fx.Node, axis: int) -> bool:
    x, kernel, stride, padding = arguments(node)[:4]
    size, output = x.meta["val"].shape[2 + axis], node.meta["val"].shape[2 + axis]
    kernel, stride, padding = (list(v) * 2 for v in (kernel, stride or kernel, padding))
    span = (output - 1) * stride[axis] + kernel[axis]
    return bool(span == size + 2 * padding[axis])


def _mirror_input(module: fx.GraphModule, dims: list[int]) -> None:
    placeholder = next(n for n in module.graph.nodes if n.op == "placeholder")
    with module.graph.inserting_after(placeholder):
        flipped = module.graph.call_function(aten.flip.default, (placeholder, dims))
    flipped.meta = dict(placeholder.meta)
    placeholder.replace_all_uses_with(flipped, delete_user_cb=lambda user: user is not flipped)


def _rewrite(module: fx.GraphModule, window: _Window) -> None:
    """Write the window's padding into the convolution, growing its kernel where needed."""
    node = window.conv
    weight = constant(module, node.args[1])
    assert weight is not None
    _, _, bias, stride, _, dilation, groups = arguments(node)
    if not window.padded and not any(window.mirrored):
        return
    grow, after, settled = [0, 0], [0, 0], [0, 0]
    for axis in (0, 1):
        front, back = window.before[axis], window.after[axis]
        if window.mirrored[axis]:
            weight, front, back = weight.flip(2 + axis), back, front
        grow[axis] = max(0, back - front)
        settled[axis] = front + grow[axis]
        reach = dilation[axis] * (window.kernel[axis] + grow[axis] - 1) + 1
        outputs = node.meta["val"].shape[2 + axis]
        # Zeros behind the kernel where symmetric padding would make one output too many.
        while (window.size[axis] + 2 * settled[axis] - reach - after[axis]) // stride[
            axis
        ] + 1 > outputs:
            after[axis] += 1
    weight = F.pad(weight, (grow[1], after[1], grow[0], after[0]))
    before = node.all_input_nodes[0]
    node.args = (
        before.args[0] if window.padded else before,
        replace_constant(module, node, "weight", weight),
        bias,
        stride,
        settled,
        dilation,
        groups,
    )
    node.kwargs = {}
    if window.padded:
        module.graph.erase_node(before)
