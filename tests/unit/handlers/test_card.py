import json

import pytest

from handlers.card import read_card, read_evidence
from handlers.errors import ModelError


def test_reads_the_card(colours):
    card = read_card(colours)
    assert (card.name, card.task) == ("colours", "image_classification")
    assert card.labels == ["red", "green", "blue"]
    assert card.threads == 1
    assert card.batch_sizes == [1, 2, 4, 8]


def test_batch_sizes_always_include_one(colours, tmp_path):
    raw = json.loads((colours / "model.json").read_text())
    raw["model"]["batch_sizes"] = [8, 4]
    (tmp_path / "model.json").write_text(json.dumps(raw))
    assert read_card(tmp_path).batch_sizes == [1, 4, 8]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", None),
        ("task", 3),
        ("model", []),
        ("model", {}),
        ("input", None),
        ("labels", "red"),
        ("labels", [1, 2]),
    ],
)
def test_a_wrong_entry_is_named(colours, tmp_path, key, value):
    raw = json.loads((colours / "model.json").read_text()) | {key: value}
    (tmp_path / "model.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=key):
        read_card(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_sizes", [0]),
        ("batch_sizes", 8),
        ("batch_sizes", [10_000]),
        ("batch_sizes", [[1]]),
        ("threads", 4000),
        ("threads", "two"),
    ],
)
def test_sizes_that_no_machine_has_are_refused(colours, tmp_path, key, value):
    raw = json.loads((colours / "model.json").read_text())
    raw["model"][key] = value
    (tmp_path / "model.json").write_text(json.dumps(raw))
    with pytest.raises(ModelError, match=key):
        read_card(tmp_path)


def test_missing_and_broken_cards(tmp_path):
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        read_card(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        read_card(tmp_path)
    (tmp_path / "model.json").write_text("[]")
    with pytest.raises(ModelError, match="expected a JSON object"):
        read_card(tmp_path)


def test_the_report_is_optional(colours, tmp_path):
    assert read_evidence(tmp_path) == {"report": None, "statement": None, "bom": None}
    assert read_evidence(colours)["report"]["gate"]["passed"] is True
