"""Tables of embeddings in few bits, against the float rows they were made from."""

import pytest
import torch
from torch import Tensor

from optimize.lowering.kernels.weights import Int4Embedding, Int8Embedding


@pytest.fixture(scope="module")
def table() -> Tensor:
    made = torch.randn(100, 24, generator=torch.Generator().manual_seed(0)) * 0.04
    made[0] = 0
    made[1] = 0.25
    return made


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [(7,), (2, 5), (1, 1)])
def test_four_bits_are_within_half_a_step(
    table: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    ids = torch.arange(10).repeat(2)[: torch.Size(shape).numel()].reshape(shape).to(dtype)
    got = torch.jit.script(Int4Embedding(table))(ids)
    wanted = table[ids.long()]
    assert got.shape == wanted.shape and got.dtype == torch.float32
    step = (wanted.amax(-1, True) - wanted.amin(-1, True)) / 15
    # float16 holds first value and step: one part in 2,048, fifteen times.
    assert ((got - wanted).abs() <= 0.51 * step + 0.01 * wanted.abs() + 2e-4).all()


def test_a_constant_row_stays_what_it_is(table: Tensor) -> None:
    got = Int4Embedding(table)(torch.tensor([0, 1]))
    assert torch.equal(got, table[:2])


def test_eight_bits_err_less_than_four_and_take_twice_the_bytes(table: Tensor) -> None:
    ids = torch.arange(100)
    eight, four = Int8Embedding(table), Int4Embedding(table)
    assert (eight(ids) - table).norm() < 0.1 * (four(ids) - table).norm()
    assert four.weight.numel() == 100 * (12 + 4) and eight.weight.numel() == 100 * 24
