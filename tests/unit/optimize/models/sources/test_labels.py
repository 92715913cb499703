"""The labels of a trained head against those of the data."""

import pytest
import torch
from torch import nn

from optimize.errors import ModelError
from optimize.models.sources.labels import match, reorder

THEIRS = {0: "NEGATIVE", 1: "neutral", "2": "Very-Positive"}


@pytest.mark.parametrize(
    ("labels", "rows", "said"),
    [
        (["negative", "neutral", "very positive"], [0, 1, 2], ""),
        (["Very_Positive", "NEGATIVE", "Neutral"], [2, 0, 1], "Very_Positive, NEGATIVE, Neutral"),
        (["0", "1", "2"], [0, 1, 2], "0 = NEGATIVE, 1 = neutral, 2 = Very-Positive"),
    ],
)
def test_names_decide_and_their_case_does_not(
    labels: list[str], rows: list[int], said: str
) -> None:
    found = match(THEIRS, labels, "./folder", new_head=False)
    assert found.rows == rows and said in found.note and bool(found.note) == bool(said)


@pytest.mark.parametrize("names", [{0: "LABEL_0", 1: "LABEL_1"}, None, {}])
def test_a_head_without_names_is_taken_in_order_and_said(names: dict[int, str] | None) -> None:
    found = match(names, ["no", "yes"], "./folder", new_head=False, rows=2)
    assert found.rows == [0, 1] and "0 = no, 1 = yes" in found.note
    assert match(names, ["0", "1"], "./folder", new_head=False, rows=2).note == ""
    with pytest.raises(ModelError, match="knows 2 labels, the data 3"):
        match(names, ["a", "b", "c"], "./folder", new_head=False, rows=2)


@pytest.mark.parametrize(
    "labels",
    [
        ["negative", "neutral", "excellent"],  # another name
        ["negative", "neutral", "Neutral"],  # the same row twice
        ["negative", "neutral"],
    ],
)
def test_other_labels_are_refused_or_get_a_new_head(labels: list[str]) -> None:
    with pytest.raises(ModelError, match=r"NEGATIVE, neutral, Very-Positive.*data \d \(negative"):
        match(THEIRS, labels, "./folder", new_head=False)
    found = match(THEIRS, labels, "./folder", new_head=True)
    assert found.rows is None and "replaced by a new one" in found.note


@pytest.mark.parametrize("head", [nn.Linear(4, 3), nn.Conv2d(4, 3, 1), nn.Linear(4, 3, bias=False)])
def test_outputs_change_places(head: nn.Module) -> None:
    x = torch.randn(2, 4, *([1, 1] if isinstance(head, nn.Conv2d) else []))
    before = head(x).detach()
    reorder(head, [2, 0, 1])
    assert torch.equal(head(x), before[:, [2, 0, 1]])
