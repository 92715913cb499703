"""Recall, reciprocal rank and overlap, against counting by hand."""

import pytest
import torch

from optimize.evaluation import retrieval
from optimize.evaluation.retrieval import Embedded


def circle(*degrees: float) -> torch.Tensor:
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


def test_scores_are_those_of_counting() -> None:
    # Documents every ten degrees from 0 to 350; a query's rank is known from its angle.
    answers = Embedded(circle(1, 2, 93), circle(*range(0, 360, 10)))
    # 0 is nearest to the first; of the second 20 and 350 are 4th and 3rd; the last has 200 degrees.
    relevant = torch.tensor([[0, 0], [1, 2], [1, 35], [2, 20]])
    places = retrieval.ranks(answers, relevant).tolist()
    assert places[:2] == [1, 3] and places[2] > 10
    found = retrieval.score(answers, relevant)
    assert found["recall_at_10"] == pytest.approx(2 / 3)
    assert found["recall_at_1"] == pytest.approx(1 / 3)
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / places[2]) / 3)
    assert found["samples"] == 3 and found["documents"] == 36
    for name, value in (("ci95", "recall_at_10"), ("recall_at_1_ci95", "recall_at_1")):
        assert found[name][0] < found[value] < found[name][1]


def test_a_document_that_is_as_near_counts_as_nearer() -> None:
    same = Embedded(circle(0, 0), circle(0, 0, 90))
    assert retrieval.ranks(same, torch.tensor([[0, 0], [1, 2]])).tolist() == [2, 3]


def test_overlap_is_the_share_of_common_neighbours() -> None:
    documents = circle(*range(0, 360, 10))
    ours, theirs = Embedded(circle(1.0), documents), Embedded(circle(51.0), documents)
    assert retrieval.overlap(ours, ours) == 1
    # Ten nearest of 1 degree: -40 to 50 (with 0 in the middle); of 51: 10 to 100.
    assert retrieval.overlap(ours, theirs) == pytest.approx(0.5)
