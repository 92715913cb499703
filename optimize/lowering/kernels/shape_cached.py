"""oneDNN kernels that stay ready to run for several batch sizes.

A packed oneDNN kernel keeps the first input shape it meets ready and sets every other shape up
anew on each call (about 20 us instead of 7). The kernels here are packed three times from one
stored weight: for batch 1, for one other hot batch size, and for all the rest. Packing happens
when the file is loaded, so the file holds each weight once; freezing would store the packed
copies, so save these scripted, not frozen.
"""

import torch
from torch import Tensor, nn

from optimize.lowering.kernels.onednn import Packed
from optimize.lowering.qparams import QParams

quantized = torch.ops.quantized


class Lane(nn.Module):
    """Which copy serves an input: 0 for batch 1, 1 for the hot batch size, 2 for others."""

    def __init__(self, hot: int) -> None:
        super().__init__()
        self.hot = hot

    def forward(self, x: Tensor) -> int:
        size = x.size(0)
        if size == 1:
            return 0
        if size == self.hot:
            return 1
        return 2


class HotConvolution(Packed):
    """`kernels.Convolution` in three copies."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
        output: QParams,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.bias = torch.zeros(len(weight)) if bias is None else bias
        self.stride, self.padding, self.dilation = list(stride), list(padding), list(dilation)
        self.groups, self.scale, self.zero_point = groups, output.scale, output.zero_point
        shape = (self.stride, self.padding, self.dilation, groups)
        self.single = quantized.conv2d_prepack(weight, self.bias, *shape)
        self.hot = quantized.conv2d_prepack(weight, self.bias, *shape)
        self.rest = quantized.conv2d_prepack(weight, self.bias, *shape)

    @torch.jit.export
    def __getstate__(
        self,
    ) -> tuple[Tensor, Tensor, list[int], list[int], list[int], int, float, int, bool]:
        return (
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.scale,
            self.zero_point,
            self.training,
        )

    @torch.jit.export
    def __setstate__(
        self,
        state: tuple[Tensor, Tensor, list[int], list[int], list[int], int, float, int, bool],
    ) -> None:
        self.weight = state[0]
        self.bias = state[1]
        self.stride = state[2]
        self.padding = state[3]
        self.dilation = state[4]
        self.groups = state[5]
        self.scale = state[6]
        self.zero_point = state[7]
        self.training = state[8]
        self.single = torch.ops.quantized.conv2d_prepack(
            self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        self.hot = torch.ops.quantized.conv2d_prepack(
            self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        self.rest = torch.ops.quantized.conv2d_prepack(
            self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def forward(self, x: Tensor, lane: int) -> Tensor:
        packed = self.single if lane == 0 else self.hot if lane == 1 else self.rest
        result: Tensor = torch.ops.quantized.conv2d(x, packed, self.scale, self.zero_point)
        return result


class HotConvolutionAdd(HotConvolution):
    """`kernels.ConvolutionAdd` in three copies. Overwrites `other`."""

    def forward(self, x: Tensor, other: Tensor, lane: int) -> Tensor:  # type: ignore[override]
        packed = self.single if lane == 0 else self.hot if lane == 1 else self.rest
        result: Tensor = torch.ops.quantized.conv2d_add(
            x, other, packed, self.scale, self.zero_point
        )
        return result


class HotLinear(Packed):
    """`kernels.Linear` in three copies."""

    def __init__(self, weight: Tensor, bias: Tensor | None, output: QParams) -> None:
        super().__init__()
        self.weight = weight
        self.bias = torch.zeros(len(weight)) if bias is None else bias
        self.scale, self.zero_point = output.scale, output.zero_point
        self.single = quantized.linear_prepack(weight, self.bias)
        self.hot = quantized.linear_prepack(weight, self.bias)
        self.rest = quantized.linear_prepack(weight, self.bias)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, float, int, bool]:
        return self.weight, self.bias, self.scale, self.zero_point, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, float, int, bool]) -> None:
        self.weight = state[0]
        self.bias = state[1]
        self.scale = state[2]
        self.zero_point = state[3]
        self.training = state[4]
        self.single = torch.ops.quantized.linear_prepack(self.weight, self.bias)
        self.hot = torch.ops.quantized.linear_prepack(self.weight, self.bias)
        self.rest = torch.ops.quantized.linear_prepack(self.weight, self.bias)

    def forward(self, x: Tensor, lane: int) -> Tensor:
        packed = self.single if lane == 0 else self.hot if lane == 1 else self.rest
        result: Tensor = torch.ops.quantized.linear(x, packed, self.scale, self.zero_point)
        return result
