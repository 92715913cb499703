"""Kernels chosen by measuring: nothing here depends on which are faster."""

import functools
import math
import statistics

import pytest
import torch
from torch import nn

from optimize.evaluation import environment
from optimize.lowering import Lowered, lower_int8
from optimize.quantization import kernels
from optimize.quantization.kernels import Kernels

IMAGES = torch.rand(4, 3, 8, 8)


def network(groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=groups),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()


def build(model: nn.Module, tried: Kernels) -> Lowered:
    return lower_int8(
        model,
        [IMAGES],
        engine=tried.engine,
        hot_batch=tried.hot_batch,
        attention=tried.attention,
        ranges="minmax",
    )


@pytest.mark.parametrize("groups", [1, 8])
def test_the_choice_is_the_fastest_of_what_was_measured(
    groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(kernels, "ROUNDS", 1)
    monkeypatch.setattr(kernels, "LIMIT", math.inf)
    monkeypatch.setattr(kernels, "GAIN", 1.0)
    model = network(groups)
    loads = {"batch1": IMAGES[:1], "batch4": IMAGES}
    found = kernels.fastest(functools.partial(build, model), loads, other_engine=groups == 1)
    assert kernels.has_groups(model) == (groups > 1)
    assert found is not None
    hot, others = {"onednn, hot batch 4"}, {"onednn"} if groups > 1 else {"onednn", "fbgemm"}
    times = found.milliseconds
    assert set(times) == hot | others
    costs = {n: statistics.fmean(map(math.log, by_load.values())) for n, by_load in times.items()}
    assert costs[found.to_json()["chosen"]] == pytest.approx(min(costs.values()), abs=0.02)
    assert str(found.kernels) == found.to_json()["chosen"]


def test_the_guess_stays_unless_another_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(kernels, "ROUNDS", 1)
    monkeypatch.setattr(kernels, "LIMIT", math.inf)
    monkeypatch.setattr(kernels, "GAIN", math.inf)
    found = kernels.fastest(
        functools.partial(build, network()), {"batch1": IMAGES[:1]}, other_engine=True
    )
    assert found is not None
    assert found.kernels == Kernels("fbgemm")
    assert set(found.milliseconds) == {"onednn", "fbgemm"}


def test_nothing_is_measured_where_builds_must_be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.VARIABLE, "none")
    assert (
        kernels.fastest(functools.partial(build, network()), {"batch1": IMAGES}, other_engine=True)
        is None
    )
