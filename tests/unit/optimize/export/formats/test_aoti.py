"""AOTInductor's int8: what inductor gets wrong, and what quantizers take for one."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.formats.interface import INT8
from optimize.export.runner import Runner
from optimize.export.subject import Exportable

Needs = Callable[[str], None]
Converted = Callable[..., Path]


class Shared(nn.Module):
    """One activation used three times, and one matrix used as table and as head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(256, 32)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.act = nn.ReLU6()

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.table(pixels.flatten(1).int()).mean(1)
        x = self.act(self.second(self.act(self.first(self.act(x)))))
        return functional.linear(x, self.table.weight)


def test_a_wrong_layout_is_caught(needs: Needs, pictures: Exportable, converted: Converted) -> None:
    """Quantized, a convolution of one channel answers in a layout inductor does not expect.

    `aoti.quantize` leaves it in float; here it is not told. Once this passes, it need not be.
    """
    needs("aoti")
    module = copy.deepcopy(pictures.subjects[0].module)
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.in_channels == 1:
            part.in_channels = -1
    path = converted("aoti", replace(pictures.subjects[0], module=module), "int8")
    with Runner("aoti", path) as run, pytest.raises(ExportRefused, match="differs from the module"):
        check.parity(pictures.subjects[0], run, INT8)


def test_what_is_shared_is_quantized_too(
    needs: Needs, pictures: Exportable, converted: Converted
) -> None:
    needs("aoti")
    subject = replace(pictures.subjects[0], module=Shared().eval().requires_grad_(False))
    with Runner("aoti", converted("aoti", subject, "int8")) as run:
        assert max(check.parity(subject, run, INT8).values()) > 1e-5
        assert check.quantized(run, INT8) == 3
