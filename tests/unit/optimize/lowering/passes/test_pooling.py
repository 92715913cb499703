"""The mean before a classifier becomes a sum: same answers, fewer operators."""

import pytest
import torch
from torch import Tensor, fx, nn

from optimize.lowering import lower_int8
from optimize.lowering.kernels.quantized import SumPositions


class Network(nn.Module):
    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling, self.conv, self.head = pooling, nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.pooling == "adaptive":
            return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]
        if self.pooling == "mean":
            return self.head(x.mean((-1, -2)))  # type: ignore[no-any-return]
        pooled = x.mean((2, 3), keepdim=True)
        flat = pooled.reshape(-1, 8)
        if self.pooling == "read twice":
            return self.head(flat) + pooled.sum((1, 2, 3)).unsqueeze(1)  # type: ignore[no-any-return]
        return self.head(flat)  # type: ignore[no-any-return]


@pytest.mark.parametrize("pooling", ["adaptive", "mean", "kept dimensions", "read twice"])
def test_answers_stay_and_the_mean_goes(pooling: str) -> None:
    torch.manual_seed(0)
    model, images = Network(pooling).eval(), torch.rand(6, 3, 9, 9)
    with torch.no_grad():
        expected = model(images)
        lowered = lower_int8(model, [images])
        assert torch.allclose(lowered(images), expected, atol=0.02)
    assert isinstance(lowered.body, fx.GraphModule)
    kinds = {type(module) for module in lowered.body.modules()}
    assert (SumPositions in kinds) == (pooling != "read twice")
    targets = {str(node.target) for node in lowered.body.graph.nodes}
    means = [name for name in targets if "mean" in name or "avg_pool" in name]
    assert bool(means) == (pooling == "read twice")
