"""int8 weights that compute as float32: a quarter of the file, float speed."""

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
