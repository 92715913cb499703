"""Kernels over plain tensors, for transformers: float32 or bfloat16 out of int8 arithmetic.

They pack their weights when the file is loaded, so they can be scripted and saved but not
frozen: a packed oneDNN tensor frozen into a file reads back as garbage.
"""

from typing import Any

import torch
from torch import Tensor, nn

from optimize.lowering.qparams import QParams

FLOAT32, BFLOAT16, UINT8 = "float32", "bfloat16", "uint8"


class Packed(nn.Module):
    """A module whose `__getstate__` leaves out what `__setstate__` packs again; pickles too."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), self.__getstate__())  # type: ignore[no-untyped-call]


def _unpickle(kind: type[nn.Module], state: Any) -> nn.Module:
    module = kind.__new__(kind)
    nn.Module.__init__(module)
    module.__setstate__(state)
    return module


class ToPlain(nn.Module):
    """float32 or bfloat16 to plain uint8.

    `int_repr` would copy the quantized tensor, slower than quantizing it: the plain tensor
    takes over its memory instead.
    """

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = qparams.scale, qparams.zero_point

    def forward(self, x: Tensor) -> Tensor:
        x = x.float().contiguous()
        q = torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)
        plain = torch.empty([0], dtype=torch.uint8)
        result: Tensor = torch.ops.aten.set_(plain, q, 0, q.size(), q.stride())
        return result


class QuantizeImage(nn.Module):
    """float32 `[N, C, H, W]` to uint8, channels last. Few channels are interleaved plane by
    plane, in two thirds of the time that torch's own change of layout takes."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = qparams.scale, qparams.zero_point

    def forward(self, x: Tensor) -> Tensor:
        q = torch.quantize_per_tensor(x, self.scale, self.zero_point, torch.quint8)
        if x.size(1) > 4 or not x.is_contiguous():
            return q
        plain = torch.empty([0], dtype=torch.uint8)
        planes = torch.ops.aten.set_(plain, q, 0, q.size(), q.stride())
        last = torch.stack(planes.unbind(1), -1)
        made = torch._empty_affine_quantized(
            [0], scale=self.scale, zero_point=self.zero_point, dtype=torch.quint8
        )
        result: Tensor = torch.ops.aten.set_(made, last, 0, last.size(), last.stride())
        return result.permute(0, 3, 1, 2)


class Reveal(nn.Module):
    """A quantized tensor as plain uint8, over the same memory."""

    def forward(self, q: Tensor) -> Tensor:
        plain = torch.empty([0], dtype=torch.uint8)
        result: Tensor = torch.ops.aten.set_(plain, q, 0, q.size(), q.stride())
        return result


class Wrap(nn.Module):
    """Plain uint8 as a quantized tensor, over the same memory."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale, self.zero_point = qparams.scale, qparams.zero_point

    def forward(self, x: Tensor) -> Tensor:
        q = torch._empty_affine_quantized(
            [0], scale=self.scale, zero_point=self.zero_point, dtype=torch.quint8
        )
        result: Tensor = torch.ops.aten.set_(q, x, 0, x.size(), x.stride())
        return result


class PointwiseLinear(Packed):
    """Fully connected layer: plain uint8 in; bias, GELU or ReLU inside; any dtype out."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        source: QParams,
        post: str,
        algorithm: str,
        to: str,
        output: QParams | None,
    ) -> None:
        super().__init__()
        self.weight = weight.int_repr()
        self.weight_scale = weight.q_per_channel_scales().float()
        self.weight_zero = torch.zeros(len(weight), dtype=torch.long)
        self.bias = torch.zeros(len(weight)) if bias is None else bias
        self.source_scale, self.source_zero = source.scale, source.zero_point
        self.post, self.algorithm, self.to_type = post, algorithm, to
        self.scale = 1.0 if output is None else output.scale
        self.zero_point = 0 if output is None else output.zero_point
        self.packed = torch.ops.onednn.qlinear_prepack(self.weight, None)

    @torch.jit.export
    def __getstate__(
        self,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, float, int, str, str, str, float, int, bool]:
        return (
            self.weight,
            self.weight_scale,
            self.weight_zero,
            self.bias,
            self.source_scale,
            self.source_zero,
            self.post,
            self.algorithm,
            self.to_type,
            self.scale,
            self.zero_point,
            self.training,
        )

    @torch.jit.export
    def __setstate__(
        self,
        state: tuple[Tensor, Tensor, Tensor, Tensor, float, int, str, str, str, float, int, bool],
    ) -> None:
        self.weight = state[0]
        self.weight_scale = state[1]
        self.weight_zero = state[2]
        self.bias = state[3]
        self.source_scale = state[4]
        self.source_zero = state[5]
        self.post = state[6]
        self.algorithm = state[7]
        self.to_type = state[8]
        self.scale = state[9]
        self.zero_point = state[10]
        self.training = state[11]
        self.packed = torch.ops.onednn.qlinear_prepack(self.weight, None)

    def forward(self, x: Tensor) -> Tensor:
        dtype = torch.float32
        if self.to_type == "bfloat16":
            dtype = torch.bfloat16
        elif self.to_type == "uint8":
            dtype = torch.uint8
        result: Tensor = torch.ops.onednn.qlinear_pointwise(
            x,
            self.source_scale,
            self.source_zero,
            self.packed,
            self.weight_scale,
            self.weight_zero,
            self.bias,
            self.scale,
            self.zero_point,
            dtype,
            self.post,
            [],
            self.algorithm,
        )
        return result
