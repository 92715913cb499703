"""The quantized operators, each a small traceable module over weights packed for oneDNN.

`torch.classes.quantized` packed parameters are saved as plain int8 weights and packed again
when the file is loaded, for the quantized engine of the loading process.
"""

from typing import Any

import torch
from torch import Tensor, nn

from optimize.lowering.qparams import QParams, quantize_channels

quantized = torch.ops.quantized


class Pixels(nn.Module):
    """uint8 `[N, C, H, W]` taken as quantized values as they are."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = qparams.scale, qparams.zero_point

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return torch._make_per_tensor_quantized_tensor(x, self.scale, self.zero_point)


class Quantize(nn.Module):
    """float32 to uint8."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = qparams.scale, qparams.zero_point

    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)


class Dequantize(nn.Module):
    """uint8 to float32."""

    def forward(self, x: Tensor) -> Tensor:
        return x.dequantize()


class SumPositions(nn.Module):
    """float32 `[N, C, H, W]` to `[N, C]`, in a third of the time of a mean and its views."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum([2, 3])


class Convolution(nn.Module):
    """uint8 convolution, with bias inside the kernel.

    ReLU and clamps need no operation: an output that starts at zero (zero point 0) and whose
    range ends at the clamp is clamped by the saturation of uint8.
    """

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
        self.packed = quantized.conv2d_prepack(weight, bias, stride, padding, dilation, groups)
        self.scale, self.zero_point = output.scale, output.zero_point

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = quantized.conv2d(x, self.packed, self.scale, self.zero_point)
        return result


class ConvolutionAdd(Convolution):
    """The same, added to `other` inside the kernel. Overwrites `other`; oneDNN only."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:  # type: ignore[override]
        result: Tensor = quantized.conv2d_add(x, other, self.packed, self.scale, self.zero_point)
        return result


class Linear(nn.Module):
    """uint8 fully connected layer over the last dimension."""

    def __init__(self, weight: Tensor, bias: Tensor | None, output: QParams) -> None:
        super().__init__()
        self.packed = quantized.linear_prepack(weight, bias)
        self.scale, self.zero_point = output.scale, output.zero_point

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = quantized.linear(x, self.packed, self.scale, self.zero_point)
        return result


class StaticLinear(nn.Module):
    """Fully connected layer of FBGEMM: float32 in and out, inputs quantized by known qparams.

    Quantize, product and dequantize are one operator, which starts sooner than oneDNN's two.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, source: QParams, relu: bool) -> None:
        super().__init__()
        torch.backends.quantized.engine = "fbgemm"  # no other engine has this operator
        self.packed = quantized.linear_prepack(weight, bias)
        self.scale, self.zero_point, self.relu = source.scale, source.zero_point, relu

    def __reduce__(self) -> tuple[Any, ...]:
        weight, bias = quantized.linear_unpack(self.packed)
        return StaticLinear, (weight, bias, QParams(self.scale, self.zero_point), self.relu)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, self.scale, self.zero_point, self.packed
        )
        return result.relu_() if self.relu else result


class DynamicLinear(nn.Module):
    """Fully connected layer: float32 in and out, each row quantized by its own range.

    Nothing needs calibrating, no input is too large, and a row's answer does not depend on the
    rest of the batch: the operator has one range for all rows, so every row is first brought to
    the range from 0 to 1, and its answer back.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        stored = quantize_channels(weight)
        self.packed = quantized.linear_prepack(stored, None)
        self.sums: Tensor
        self.bias: Tensor
        self.register_buffer("sums", stored.dequantize().double().sum(1).float())
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.aminmax(x, dim=-1, keepdim=True)
        span = (high - low).clamp(min=1e-30)
        # All eight bits: the ninth that FBGEMM's oldest kernels need is not needed here.
        unit: Tensor = quantized.linear_dynamic((x - low) / span, self.packed, False)
        return torch.addcmul(torch.addcmul(self.bias, low, self.sums), unit, span)


class SharedRangeLinear(nn.Module):
    """Fully connected layer: float32 in and out, inputs quantized by the range of each call.

    Faster than `DynamicLinear` where rows are many or calls are small, as in Whisper; a row's
    answer then depends a little on the other rows of the call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = quantized.linear_prepack(quantize_channels(weight), bias)

    def forward(self, x: Tensor) -> Tensor:
        # All eight bits: the ninth that FBGEMM's oldest kernels need is not needed here.
        result: Tensor = quantized.linear_dynamic(x, self.packed, False)
        return result


class Add(nn.Module):
    """uint8 + uint8, each with its own scale."""

    def __init__(self, output: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = output.scale, output.zero_point

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        result: Tensor = quantized.add(x, y, self.scale, self.zero_point)
        return result


class Concatenate(nn.Module):
    """uint8 tensors brought to one scale and joined along `dim`."""

    def __init__(self, dim: int, output: QParams) -> None:
        super().__init__()
        self.dim, self.scale, self.zero_point = dim, output.scale, output.zero_point

    def forward(self, parts: list[Tensor]) -> Tensor:
        result: Tensor = quantized.cat(parts, self.dim, self.scale, self.zero_point)
        return result
