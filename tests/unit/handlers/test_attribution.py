"""Attributions against functions whose Shapley values are known."""

import numpy as np
import pytest

from handlers import attribution
from handlers.attribution import Array


def linear(weights: list[float]) -> attribution.Score:
    def score(masks: np.ndarray) -> Array:
        return masks.astype(np.float64) @ np.array(weights) + 3.0

    return score


def test_both_methods_find_the_weights_of_a_linear_score() -> None:
    weights = [1.0, -2.0, 0.5, 0.0, 4.0]
    ablated, evaluations = attribution.ablation(linear(weights), 5)
    assert ablated == pytest.approx(weights)
    assert evaluations == 6
    found, _ = attribution.shap(linear(weights), 5, 64)
    assert found == pytest.approx(weights, abs=1e-4)


def test_shap_shares_an_interaction() -> None:
    """Only both features together count: each gets half, a bystander nothing."""

    def score(masks: np.ndarray) -> Array:
        return (masks[:, 0] & masks[:, 1]).astype(np.float64)

    found, _ = attribution.shap(score, 3, 2000)
    assert found == pytest.approx([0.5, 0.5, 0.0], abs=0.05)
    assert found.sum() == pytest.approx(1.0)


def test_one_feature_takes_everything() -> None:
    found, _ = attribution.shap(linear([7.0]), 1, 64)
    assert found == pytest.approx([7.0])


def test_groups_cover_all_features_in_order() -> None:
    runs = attribution.groups(1000, 256)
    assert len(runs) == 256
    assert [a for a, _ in runs[1:]] == [b for _, b in runs[:-1]]
    assert (runs[0][0], runs[-1][1]) == (0, 1000)
    assert attribution.groups(3, 256) == [(0, 1), (1, 2), (2, 3)]
