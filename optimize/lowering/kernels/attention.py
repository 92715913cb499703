"""Attention kernels: sequence by sequence for self-attention, batched for the rest."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(qkv: Tensor, starts: list[int], heads: int, step: int) -> Tensor:
    """Self-attention within each sequence of a list of tokens.

    One sequence at a time, so that padding costs nothing, no sequence's answer depends on the
    others and the scores stay in the cache.

    Args:
        qkv: float32 or bfloat16 `[tokens, 3 * heads * width]`, the scores' factor and log2(e)
            already in the queries, see `passes.attention.fold_scale`.
        starts: where each sequence starts, and the end of the last.
        step: lengths are filled up to a multiple of it in bfloat16 products, as kernels of new
            shapes are slow once.

    Returns:
        float32 `[tokens, heads * width]`; zeros after the last sequence.
    """
    count, tokens = len(starts) - 1, qkv.size(0)
    if count == 1 and starts[1] == tokens and (qkv.dtype == torch.float32 or tokens <= 64):
        return _attend_fused(qkv.float(), heads)
    result = torch.empty([tokens, qkv.size(1) // 3], dtype=torch.float32)
    if starts[count] < tokens:
        result[starts[count] :].zero_()
    for i in range(count):
        if starts[i + 1] > starts[i]:
            rows, output = qkv[starts[i] : starts[i + 1]], result[starts[i] : starts[i + 1]]
            # Up to 64 tokens the operators of the products take longer than the arithmetic.
            short = qkv.dtype == torch.float32 or rows.size(0) <= 64
            if short or not _attend_powers(rows, heads, step, output):
                output.copy_(_attend_fused(rows.float(), heads))
    return result


def _attend_fused(rows: Tensor, heads: int) -> Tensor:
    """One sequence `[L, 3 * heads * width]` in torch's blocked float32 kernel."""
    length = rows.size(0)
    parts = rows.view(1, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    # The factor of natural softmax for scores in powers of two.
    scale = 0.6931471805599453
    mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=scale)
    return mixed.transpose(1, 2).reshape(length, -1)


def _attend_powers(rows: Tensor, heads: int, step: int, output: Tensor) -> bool:
    """One sequence `[L, 3 * heads * width]` in bfloat16 products with all scores between them,
    half the time of the blocked kernel on processors with AVX512-BF16.

    The powers of two are taken without the row's maximum off, half of a softmax's time; scores
    that leave bfloat16's range are noticed in the sums.

    Returns:
        Whether all powers of two were within range; if not, `output` is of no use.
    """
    real, width = rows.size(0), rows.size(1) // (3 * heads)
    length = (real + step - 1) // step * step
    parts = torch.empty([3, heads, length, width], dtype=rows.dtype)
    parts[:, :, real:].zero_()
    parts[:, :, :real].copy_(rows.view(real, 3, heads, width).permute(1, 2, 0, 3))
    weights = torch.bmm(parts[0], parts[1].transpose(1, 2)).exp2_()
    sums = weights[:, :real, :real].sum([2], True)
    mixed = torch.bmm(weights, parts[2])[:, :real]
    answer = output.view(real, heads, width)
    answer.copy_(mixed.transpose(0, 1))
    answer.mul_(sums.float().reciprocal().transpose(0, 1))
    # The values that are added up are far below 2^27: neither they nor a sum overflow.
    return float((sums + sums.reciprocal()).sum().item()) < 2.0**100


class TokenAttention(nn.Module):
    """`attend` for a list of tokens, see `passes.unpad.Tokens`."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, qkv: Tensor, starts: list[int]) -> Tensor:
        return attend(qkv, starts, self.heads, 16)


class UniformAttention(nn.Module):
    """`attend` for `[N, L, 3 * heads * width]`, no padding among it."""

    def __init__(self, heads: int, step: int) -> None:
        super().__init__()
        self.heads, self.step = heads, step

    def forward(self, qkv: Tensor) -> Tensor:
        batch, length = qkv.size(0), qkv.size(1)
        starts = [i * length for i in range(batch + 1)]
        rows = qkv.reshape(batch * length, -1)
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


class Attention(nn.Module):
    """Scaled dot-product attention of `[N, heads, length, width]` in bfloat16.

    Up to 512 tokens two batched products with the whole score matrix between them, half the
    time of the blocked kernel on processors with AVX512-BF16.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.to(torch.bfloat16), k.to(torch.bfloat16), v.to(torch.bfloat16)
        batch, heads, length, width = q.size(0), q.size(1), q.size(2), q.size(3)
        if length > 512 or k.size(2) > 512:
            return F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        q = (q * self.scale).reshape(batch * heads, length, width)
        k = k.reshape(batch * heads, -1, width)
        v = v.reshape(batch * heads, -1, v.size(3))
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)), -1)
        return torch.bmm(weights, v).reshape(batch, heads, length, -1)
