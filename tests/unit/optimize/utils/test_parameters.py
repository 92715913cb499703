"""Inputs against the parameters that take them."""

from torch import Tensor, nn

from optimize.utils.parameters import by_parameter


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Any(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def test_inputs_of_a_star_are_one_parameters() -> None:
    assert by_parameter(Two(), [{0: "n"}, {}]) == ({0: "n"}, {})
    assert by_parameter(Any(), [{0: "n"}, {}]) == (({0: "n"}, {}),)
