import copy

import pytest
import torch
from torch import nn

from optimize import models
from optimize.data import Dataset
from optimize.errors import ModelError
from optimize.models import convnet, resnet
from optimize.prune import PruneOptions, prune, widths

EXAMPLE = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)


@pytest.mark.parametrize("importance", ["magnitude", "bn_scale"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_tensors_really_shrink(importance: str, scope: str) -> None:
    torch.manual_seed(0)
    model = convnet.build(10, widths=(32, 64, 64), strides=(2, 2, 2))
    for module in model.modules():  # untrained gains are all alike
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.1, 1.0)
    options = PruneOptions(0.5, importance, scope, round_to=16)  # type: ignore[arg-type]
    pruned = prune(model, EXAMPLE, options)
    before, after = widths(model), widths(pruned)
    assert all(after[name] <= before[name] for name in before)
    assert all(after[name] % 16 == 0 for name in list(after)[:-1])
    assert models.parameters(pruned) < models.parameters(model)
    assert models.macs(pruned, EXAMPLE) < models.macs(model, EXAMPLE)
    assert list(after.values())[-1] == 10
    assert pruned(EXAMPLE.repeat(3, 1, 1, 1)).shape == (3, 10)


def test_half_of_every_layer_goes() -> None:
    model = convnet.build(10, widths=(32, 64), strides=(2, 2))
    assert list(widths(prune(model, EXAMPLE, PruneOptions(0.5))).values()) == [16, 32, 10]


def test_shortcuts_keep_fitting() -> None:
    model = resnet.build(10, width=32, blocks=1)
    pruned = prune(model, EXAMPLE, PruneOptions(0.5, round_to=8))
    assert pruned(EXAMPLE).shape == (1, 10)
    assert models.parameters(pruned) < 0.5 * models.parameters(model)


def test_the_given_model_is_left_alone(trained: nn.Module, dataset: Dataset) -> None:
    before = copy.deepcopy(trained.state_dict())
    prune(trained, dataset.test.inputs[:1], PruneOptions(0.5))
    assert all(torch.equal(before[name], value) for name, value in trained.state_dict().items())


def test_the_least_important_channels_go() -> None:
    model = convnet.build(10, widths=(32, 32), strides=(2, 2))
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        first.weight[::2] = 0.0
    pruned = prune(model, EXAMPLE, PruneOptions(0.5))
    kept = next(m for m in pruned.modules() if isinstance(m, nn.Conv2d))
    assert torch.equal(kept.weight, first.weight[1::2])


def test_a_ratio_that_removes_nothing_is_refused() -> None:
    model = convnet.build(10, widths=(16, 16), strides=(2, 2))
    with pytest.raises(ModelError, match="removes no channel"):
        prune(model, EXAMPLE, PruneOptions(0.2, round_to=16))


def test_a_model_that_cannot_be_traced_is_refused() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3)
            self.head = nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = self.conv(x.float()).mean((2, 3))
            return self.head(pooled.reshape(-1, 8))  # its own width, written into the code

    with pytest.raises(ModelError):
        prune(Fixed(), EXAMPLE, PruneOptions(0.5, round_to=1))
