"""Weights that are computed in every call become plain ones, of the same value."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

from optimize.models.parametrized import settle
from optimize.utils import pickles

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "computed",
    [
        utils.weight_norm,
        utils.spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_a_computed_weight_becomes_a_plain_one(
    computed: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = nn.Sequential(computed(nn.Linear(4, 6)), nn.Linear(6, 2))
    model(X)  # a power iteration, a weight that depends on others
    expected = model.eval()(X)
    assert "the weights of 0 are computed" in settle(model.train())
    assert model.training
    torch.testing.assert_close(model.eval()(X), expected)
    assert sorted(model.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    copy.deepcopy(model).load_state_dict(model.state_dict())
    pickles.save(model, tmp_path / "model")
    assert settle(model) == ""
