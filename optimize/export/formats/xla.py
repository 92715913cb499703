"""Convolutions in a form that XLA's CPU compiler runs fast: channels last, depthwise as sums.

The compiler calls a matrix library for dense convolutions with channels last and without groups;
all others become scalar loops. A depthwise convolution, written as a sum of shifted products, one
per kernel position, is fused into one vectorized loop.
"""

from collections.abc import Callable, Sequence
from typing import Any

LARGEST_KERNEL = 49  # positions of a depthwise kernel; each is a term of the sum


def replace_convolution(operators: dict[Any, Any]) -> None:
    """Replace `convolution` in torchax's table of operators."""
    import torch

    entry = operators[torch.ops.aten.convolution]
    if not hasattr(entry.func, "before"):
        entry.func = convolution(entry.func)


def convolution(before: Callable[..., Any]) -> Callable[..., Any]:
    """`aten.convolution` for JAX arrays.

    Args:
        before: torchax's own, used if not 2-D, transposed, or grouped but not depthwise.
    """

    def convolve(
        x: Any,
        weight: Any,
        bias: Any,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        transposed: bool,
        output_padding: Sequence[int],
        groups: int,
    ) -> Any:
        from jax import lax, numpy

        depthwise = groups == weight.shape[0] == x.shape[1] and groups > 1
        small = weight.shape[-2] * weight.shape[-1] <= LARGEST_KERNEL
        if weight.ndim != 4 or transposed or not (groups == 1 or (depthwise and small)):
            rest = (stride, padding, dilation, transposed, output_padding, groups)
            return before(x, weight, bias, *rest)
        sides = [(padding[0], padding[0]), (padding[-1], padding[-1])]
        x = numpy.transpose(x, (0, 2, 3, 1))
        if depthwise:
            output = _shifted_sum(x, weight[:, 0], stride, sides, dilation)
        else:
            output = lax.conv_general_dilated(
                x,
                numpy.transpose(weight, (2, 3, 1, 0)),
                stride,
                sides,
                rhs_dilation=dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        if bias is not None:
            output = output + bias
        return numpy.transpose(output, (0, 3, 1, 2))

    convolve.before = before  # type: ignore[attr-defined]
    return convolve


def _shifted_sum(
    x: Any,
    weight: Any,
    stride: Sequence[int],
    sides: list[tuple[int, int]],
    dilation: Sequence[int],
) -> Any:
    """A depthwise convolution of `[N, H, W, C]` with `[C, KH, KW]`."""
    from jax import lax, numpy

    x = numpy.pad(x, ((0, 0), *sides, (0, 0)))
    ends = [
        (x.shape[1 + i] - dilation[i] * (weight.shape[1 + i] - 1) - 1) // stride[i] * stride[i] + 1
        for i in (0, 1)
    ]
    terms = []
    for row in range(weight.shape[1]):
        for column in range(weight.shape[2]):
            top, left = row * dilation[0], column * dilation[1]
            part = lax.slice(
                x,
                (0, top, left, 0),
                (x.shape[0], top + ends[0], left + ends[1], x.shape[3]),
                (1, *stride, 1),
            )
            terms.append(part * weight[:, row, column])
    return sum(terms[1:], terms[0])
