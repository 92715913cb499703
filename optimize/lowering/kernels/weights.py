"""int8 and int4 weights that compute as float32: a quarter of the file or less, float speed."""

import torch
from torch import Tensor, nn

from optimize.lowering.qparams import quantize_rows


class Int8Embedding(nn.Module):
    """Rows of an int8 table, a scale for each, as float32: ids `[...]` to `[..., width]`."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, scale = quantize_rows(weight)
        self.weight: Tensor
        self.scale: Tensor
        self.register_buffer("scale", scale)
        self.register_buffer("weight", rows)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.embedding(self.weight, ids).float() * torch.embedding(self.scale, ids)


class Int4Embedding(nn.Module):
    """Rows of a 4-bit table as float32: ids `[...]` to `[..., width]`.

    Each row has sixteen values, evenly spaced from its least to its greatest, whose first and
    step stand behind it as float16 (torch's rowwise format, Guan et al. 2019).

    Args:
        weight: float `[rows, width]`, the width even.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        packed = torch.ops.quantized.embedding_bag_4bit_prepack(weight.float().contiguous())
        self.register_buffer("weight", packed)

    def forward(self, ids: Tensor) -> Tensor:
        flat = ids.reshape(-1).long()
        # A bag of one row each: the operator for single rows takes packed objects alone.
        bags = torch.arange(flat.size(0))
        rows = torch.ops.quantized.embedding_bag_4bit_rowwise_offsets(self.weight, flat, bags)
        embedded: Tensor = rows.unflatten(0, ids.shape)
        return embedded


class Int8Weight(nn.Module):
    """A float32 weight that a file holds as int8: rounded when saved, widened when loaded."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, self.scale = quantize_rows(weight)
        self.weight = rows.float() * self.scale

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, Tensor, bool]:
        return torch.round(self.weight / self.scale).to(torch.int8), self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, Tensor, bool]) -> None:
        self.scale = state[1]
        self.weight = state[0].to(torch.float32) * self.scale
        self.training = state[2]

    def forward(self) -> Tensor:
        return self.weight
