"""Confidence, its bins and the calibration error, by sums made by hand."""

import math

import pytest
import torch

from optimize.evaluation.calibration import confidence, probabilities, reliability


def test_ten_answers_at_90_of_which_half_are_right() -> None:
    sure, right = confidence(torch.tensor([[math.log(9.0), 0.0]] * 10), torch.tensor([0, 1] * 5))
    found = reliability(sure, right)
    assert found["ece"] == pytest.approx(0.4)
    assert len(found["bins"]) == 15
    filled = {number: row for number, row in enumerate(found["bins"]) if row["samples"]}
    assert list(filled) == [13]  # 0.9 lies from 13/15 to 14/15
    assert filled[13] == {
        "samples": 10,
        "confidence": pytest.approx(0.9),
        "accuracy": pytest.approx(0.5),
    }


def test_bins_weigh_as_many_answers_as_they_hold() -> None:
    """Three answers at 1.0 that are right, one at 0.5 that is wrong: a quarter of a half."""
    sure = torch.tensor([1.0, 1.0, 1.0, 0.5]).double()
    found = reliability(sure, torch.tensor([True, True, True, False]))
    assert found["ece"] == pytest.approx(0.125)
    assert [row["samples"] for row in found["bins"]] == [0] * 7 + [1] + [0] * 6 + [3]


def test_every_label_of_multi_label_data_is_an_answer() -> None:
    logits = torch.tensor([[math.log(3.0), -math.log(4.0)]])
    sure, right = confidence(logits, torch.tensor([[1.0, 1.0]]))
    assert sure.tolist() == pytest.approx([0.75, 0.8])
    assert right.tolist() == [True, False]


def test_probabilities_are_not_made_softer() -> None:
    rows = torch.tensor([[0.9, 0.1], [0.25, 0.75]])
    assert torch.equal(probabilities(rows), rows.double())
    assert torch.allclose(probabilities(rows.log()), rows.double(), atol=1e-6)
