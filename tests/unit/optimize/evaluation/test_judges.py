"""Metrics of tensors against scikit-learn's, and what they say of constant and perfect answers."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from optimize.evaluation.class_judges import (
    Classification,
    MultiLabel,
    Segmentation,
    average_precision,
)
from optimize.evaluation.number_judges import Regression
from optimize.evaluation.parity_judge import Parity

G = torch.Generator().manual_seed(0)
SCORES = torch.randn(80, 4, generator=G)
TARGETS = (SCORES + torch.randn(80, 4, generator=G) > 0.5).float()


def test_regression() -> None:
    answers, targets = SCORES, SCORES + 0.3 * TARGETS
    scored = Regression().score([(answers, targets)])
    assert scored["r2"] == pytest.approx(metrics.r2_score(targets, answers), abs=1e-5)
    assert scored["mae"] == pytest.approx(metrics.mean_absolute_error(targets, answers), abs=1e-5)
    low, high = scored["ci95"]
    assert low < scored["r2"] < high
    mean = targets.mean(0, keepdim=True).expand_as(targets)
    assert Regression().score([(mean, targets)])["r2"] == pytest.approx(0, abs=1e-5)
    assert Regression("mae").chance([targets]) > 0.5
    with pytest.raises(ValueError, match="gate is 'x', not one of r2, mae"):
        Regression("x")


def test_classes_and_labels() -> None:
    labels = TARGETS[:, :3].argmax(1)
    scored = Classification().score([(SCORES, labels)])
    assert scored["accuracy"] == pytest.approx((SCORES.argmax(1) == labels).float().mean())
    right = torch.nn.functional.one_hot(labels, 4).float()
    low, high = Classification().score([(right, labels)])["ci95"]
    assert low < 1 and high == pytest.approx(1)  # Wilson's
    assert average_precision(SCORES, TARGETS > 0.5) == pytest.approx(
        metrics.average_precision_score(TARGETS, SCORES), abs=1e-6
    )
    found = MultiLabel("macro_f1").score([(SCORES, TARGETS)])["macro_f1"]
    wanted = metrics.f1_score(TARGETS, (SCORES > 0).int(), average="macro")
    assert found == pytest.approx(wanted, abs=1e-6)


def test_segmentation() -> None:
    wanted = torch.randint(0, 3, (10, 6, 6), generator=G)
    logits = torch.randn(10, 3, 6, 6, generator=G)
    scored = Segmentation().score([(logits, wanted)])
    found = logits.argmax(1).flatten()
    jaccard = metrics.jaccard_score(wanted.flatten(), found, average="macro")
    assert scored["miou"] == pytest.approx(jaccard)
    constant = torch.full_like(wanted, int(np.bincount(wanted.flatten()).argmax()))
    chance = Segmentation().chance([wanted])
    assert Segmentation().score([(constant, wanted)])["miou"] == pytest.approx(chance)


def test_parity() -> None:
    same = Parity().score([(SCORES, SCORES)])
    assert same["cosine"] == pytest.approx(1) and same["max_error"] == 0
    opposite = Parity().score([(-SCORES, SCORES)])
    assert opposite["cosine"] == pytest.approx(-1)
    one = SCORES[:, 0]
    assert Parity().score([(one + 0.1, one)])["cosine"] < 1  # one number a row: of all rows
    assert Parity().agreement([(SCORES, SCORES)]) == 1 > Parity().agreement([(-SCORES, SCORES)])
