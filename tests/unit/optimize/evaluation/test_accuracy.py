import pytest
import torch
from torch import nn

from optimize.data.dataset import Split
from optimize.evaluation import accuracy


def test_wilson_gives_the_published_interval() -> None:
    low, high = accuracy.wilson(8, 10)  # Wilson 1927, as tabulated: 0.490 to 0.943
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert accuracy.wilson(0, 0) == (0.0, 1.0)
    assert accuracy.wilson(10, 10)[1] == pytest.approx(1.0)


def test_accuracy_counts_per_class() -> None:
    logits = torch.eye(3)[[0, 1, 1, 0]]
    found = accuracy.accuracy(logits, torch.tensor([0, 1, 0, 0]))
    assert found.value == 0.75
    assert found.per_class == [pytest.approx(2 / 3), 1.0, None]
    assert found.ci95 == accuracy.wilson(3, 4)


def test_predict_does_not_depend_on_the_batch_size() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).train()
    inputs = torch.randn(23, 3, 2, 2)
    whole = accuracy.predict(model, inputs, batch_size=23)
    assert torch.allclose(whole, accuracy.predict(model, inputs, batch_size=5), atol=1e-6)
    assert not model.training


def test_agreement_ignores_the_truth() -> None:
    ours, theirs = torch.eye(3)[[0, 1, 2, 2]], torch.eye(3)[[0, 1, 1, 2]]
    assert accuracy.agreement(ours, theirs) == 0.75


def test_a_split_needs_as_many_targets() -> None:
    with pytest.raises(ValueError, match="3 inputs, 2 targets"):
        Split(torch.zeros(3, 1), torch.zeros(2))
