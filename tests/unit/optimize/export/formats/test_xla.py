"""Convolutions written for XLA answer what PyTorch's do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from optimize.export.formats import xla


@pytest.mark.parametrize("groups", [1, 6], ids=["dense", "depthwise"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((3, 3), (1, 1), (1, 1), (1, 1)),
        ((5, 3), (2, 3), (2, 0), (1, 1)),
        ((3, 3), (2, 1), (2, 1), (2, 3)),
        ((1, 1), (1, 1), (0, 0), (1, 1)),
    ],
)
def test_it_is_pytorchs_convolution(
    needs: Callable[[str], None],
    groups: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    needs("savedmodel")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 13, 11, generator=generator)
    weight = torch.randn(6, 6 // groups, *kernel, generator=generator)
    bias = torch.randn(6, generator=generator)
    wanted = F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    def never(*given: object) -> None:
        raise AssertionError("left to torchax")

    arrays = (x.numpy(), weight.numpy(), bias.numpy())
    settings = (stride, padding, dilation, False, (0, 0), groups)
    found = xla.convolution(never)(*arrays, *settings)
    np.testing.assert_allclose(np.asarray(found), wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "transposed", "groups"),
    [((6, 6, 3), False, 1), ((6, 6, 3, 3), True, 1), ((6, 3, 3, 3), False, 2)],
    ids=["one dimension", "transposed", "two groups"],
)
def test_others_are_left_to_torchax(
    needs: Callable[[str], None], shape: tuple[int, ...], transposed: bool, groups: int
) -> None:
    needs("savedmodel")
    x, weight = np.zeros((1, 6, *[9] * (len(shape) - 2))), np.zeros(shape)
    ones = (1,) * (len(shape) - 2)
    told = []
    xla.convolution(lambda *given: told.append(given))(
        x, weight, None, ones, ones, ones, transposed, ones, groups
    )
    assert told[0][6:] == (transposed, ones, groups)
