"""Self-attention whose queries, keys and values come from one linear layer."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimize.lowering.graphs import arguments, aten, constant, replace_constant
from optimize.lowering.passes.unpad import probe_views


@dataclass
class SelfAttention:
    """`source` `[N, L, 3 * heads * width]` to `last` `[N, L, heads * width]`."""

    node: fx.Node
    source: fx.Node
    last: fx.Node
    heads: int
    width: int


def find_self_attention(module: fx.GraphModule, node: fx.Node) -> SelfAttention | None:
    """The self-attention around a call of `scaled_dot_product_attention`, None when it is
    another kind. What the views between do to numbers decides, not how they are written."""
    dropout, causal, _, shared = arguments(node)[4:8]
    if dropout != 0 or causal or shared or node.args[0].meta["val"].dim() != 4:  # type: ignore
        return None
    batch, heads, length, width = node.args[0].meta["val"].shape  # type: ignore[union-attr]
    source = _source(node.args[0])
    if source is None or not isinstance(heads, int) or not isinstance(width, int):
        return None
    stored = [n for n in arguments(source)[1:3] if n is not None]
    if any(constant(module, n) is None for n in stored):
        return None
    value = source.meta["val"]
    if value.dim() != 3 or value.shape[-1] != 3 * heads * width or not _alone(source, node):
        return None
    sizes = {str(batch): 2}
    if not isinstance(length, int):
        sizes[str(length)] = 3
    tokens = length if isinstance(length, int) else 3
    numbers = torch.arange(2 * tokens * 3 * heads * width).reshape(2, tokens, -1)
    expected = numbers.reshape(2, tokens, 3, heads, width).permute(2, 0, 3, 1, 4)
    try:
        for argument, wanted in zip(node.args[:3], expected, strict=True):
            if not torch.equal(probe_views(argument, source, numbers, sizes), wanted):  # type: ignore
                return None
        mixed = torch.arange(2 * heads * tokens * width).reshape(2, heads, tokens, width)
        last = node
        while (follower := _sole_user(last)) is not None:
            found = probe_views(follower, node, mixed, sizes)
            last = follower
            if found.dim() == 3:
                same = torch.equal(found, mixed.transpose(1, 2).reshape(2, tokens, -1))
                return SelfAttention(node, source, last, heads, width) if same else None
    except (LookupError, RuntimeError, TypeError):
        return None
    return None


def _sole_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _source(node: object) -> fx.Node | None:
    """The linear layer that a view is of."""
    while isinstance(node, fx.Node) and node.target is not aten.linear.default:
        if not node.args or node.op != "call_function":
            return None
        node = node.args[0]
    return node if isinstance(node, fx.Node) else None


def _alone(source: fx.Node, attention: fx.Node) -> bool:
    """Whether the views of `source` go nowhere but into `attention`."""
    return all(
        user is attention or (user.target is not aten.linear.default and _alone(user, attention))
        for user in source.users
    ) and bool(source.users)


def fold_scale(module: fx.GraphModule, found: SelfAttention) -> None:
    """Multiply the queries' weights by the factor of the scores, once and for all; log2(e) too,
    as powers of two are cheaper than those of e."""
    node, source = found.node, found.source
    weight, bias = constant(module, source.args[1]), constant(module, arguments(source)[2])
    given = arguments(node)[6]
    scale = (found.width**-0.5 if given is None else float(given)) / math.log(2)
    assert weight is not None  # find_self_attention saw to it
    rows = found.heads * found.width
    weight = torch.cat([weight[:rows] * scale, weight[rows:]])
    source.update_arg(1, replace_constant(module, source, "weight", weight))
    if bias is not None:
        bias = torch.cat([bias[:rows] * scale, bias[rows:]])
        source.args = (*source.args[:2], replace_constant(module, source, "bias", bias))
    node.kwargs = {**node.kwargs, "scale": math.log(2)}


def attend(qkv: Tensor, starts: list[int], heads: int, step: int) -> Tensor:
    """Attention within each sequence of a list of tokens.

    bfloat16 products with the whole score matrix between them take half the time of the
    blocked kernel on processors with AVX512-BF16. One sequence at a time keeps the scores in
    the cache; lengths are filled up to a multiple of `step`, as kernels of new shapes are slow
    once. The powers of two are taken without the row's maximum off, half of a softmax's time;
    scores that leave bfloat16's range are noticed in the sums, and softmax does the work again.

    Args:
        qkv: bfloat16 `[tokens, 3 * heads * width]`, the scores' factor and log2(e) already in
            the queries, see `fold_scale`.
        starts: where each sequence starts, and the end of the last.

    Returns:
        float32 `[tokens, heads * width]`; zeros after the last sequence.
    """
    result, fits = _attend(qkv, starts, heads, step, False)
    if not fits:
        result, fits = _attend(qkv, starts, heads, step, True)
    return result


def _attend(
    qkv: Tensor, starts: list[int], heads: int, step: int, careful: bool
) -> tuple[Tensor, bool]:
    """What `attend` returns, and whether all powers of two were within range."""
    width = qkv.size(1) // (3 * heads)
    count = len(starts) - 1
    longest = 0
    for i in range(count):
        longest = max(longest, starts[i + 1] - starts[i])
    longest = (longest + step - 1) // step * step
    result = torch.empty([qkv.size(0), heads * width], dtype=torch.float32)
    if starts[count] < qkv.size(0):
        result[starts[count] :].zero_()
    split = torch.empty([3 * heads * longest * width], dtype=qkv.dtype)
    score = torch.empty([heads * longest * longest], dtype=qkv.dtype)
    mixed = torch.empty([heads * longest * width], dtype=qkv.dtype)
    sums = torch.empty([heads * starts[count]], dtype=qkv.dtype)
    for i in range(count):
        start, end = starts[i], starts[i + 1]
        real = end - start
        if real == 0:
            continue
        length = (real + step - 1) // step * step
        parts = split[: 3 * heads * length * width].view(3, heads, length, width)
        rows = qkv[start:end].view(real, 3, heads, width).permute(1, 2, 0, 3)
        scores = score[: heads * length * length].view(heads, length, length)
        values = mixed[: heads * length * width].view(heads, length, width)
        total = sums[start * heads : end * heads].view(heads, real, 1)
        weights, found = scores, values
        if real < length:
            weights, found = scores[:, :real, :real], values[:, :real]
            parts[:, :, real:].zero_()
            parts[:, :, :real].copy_(rows)
        else:
            parts.copy_(rows)
        torch.bmm(parts[0], parts[1].transpose(1, 2), out=scores)
        if careful:
            weights.copy_(torch.softmax(weights.float() * 0.6931471805599453, -1))
        else:
            torch.exp2(scores, out=scores)
        torch.sum(weights, [2], True, out=total)
        torch.bmm(scores, parts[2], out=values)
        answer = result[start:end].view(real, heads, width)
        answer.copy_(found.transpose(0, 1))
        answer.mul_(total.float().reciprocal_().transpose(0, 1))
    # The values that are added up are far below 2^27: neither they nor a sum overflow.
    return result, float((sums + sums.reciprocal()).sum().item()) < 2.0**100


class TokenAttention(nn.Module):
    """`attend` for a list of tokens, see `tokens.Tokens`."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, qkv: Tensor, starts: list[int]) -> Tensor:
        return attend(qkv.to(torch.bfloat16), starts, self.heads, 16)


class UniformAttention(nn.Module):
    """`attend` for `[N, L, 3 * heads * width]`, no padding among it."""

    def __init__(self, heads: int, step: int) -> None:
        super().__init__()
        self.heads, self.step = heads, step

    def forward(self, qkv: Tensor) -> Tensor:
        batch, length = qkv.size(0), qkv.size(1)
        starts = [i * length for i in range(batch + 1)]
        rows = qkv.to(torch.bfloat16).reshape(batch * length, -1)
        return attend(rows, starts, self.heads, self.step).view(batch, length, -1)


class MaskedAttention(nn.Module):
    """Attention of `[N, heads, L, width]` in bfloat16 with a mask, bool or to be added."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        q, k, v = q.to(torch.bfloat16), k.to(torch.bfloat16), v.to(torch.bfloat16)
        batch, heads, length = q.size(0), q.size(1), q.size(2)
        q = (q * self.scale).reshape(batch * heads, length, -1)
        k = k.reshape(batch * heads, -1, k.size(3))
        v = v.reshape(batch * heads, -1, v.size(3))
        scores = torch.bmm(q, k.transpose(1, 2)).view(batch, heads, length, -1)
        if mask.dtype == torch.bool:
            scores = scores.masked_fill(~mask, -float("inf"))
        else:
            scores = scores + mask.to(torch.bfloat16)
        weights = torch.softmax(scores, -1).view(batch * heads, length, -1)
        return torch.bmm(weights, v).reshape(batch, heads, length, -1)
