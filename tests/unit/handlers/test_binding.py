"""Digests that bind a report to its files: of values, not of how they are written."""

import hashlib
import json

import pytest

from handlers import binding

REPORT = {"final": {"accuracy": 0.875, "samples": 8}, "labels": ["ä", "b"], "drop": 1e-07}


def test_a_report_is_the_same_however_it_is_written() -> None:
    written = binding.sealed(REPORT)
    assert binding.is_untouched(written)
    for text in (
        json.dumps(written, indent=4, sort_keys=True),
        json.dumps(dict(reversed(written.items())), ensure_ascii=False),
    ):
        assert binding.is_untouched(json.loads(text))


def test_anybody_can_compute_it() -> None:
    text = '{"drop":1e-07,"final":{"accuracy":0.875,"samples":8},"labels":["ä","b"]}'
    assert binding.canonical(REPORT) == text.encode()
    own = hashlib.sha256(text.encode()).hexdigest()
    assert binding.sealed(REPORT)["report_sha256"] == own == binding.report_digest(REPORT)


@pytest.mark.parametrize(
    "change",
    [
        {"drop": 1.0000000000000002e-07},
        {"final": {"accuracy": 0.875, "samples": 9}},
        {"labels": ["b", "ä"]},
        {"more": None},
        {"report_sha256": "0" * 64},
        {"report_sha256": None},
    ],
)
def test_an_edit_is_noticed(change: dict[str, object]) -> None:
    assert not binding.is_untouched({**binding.sealed(REPORT), **change})


def test_keys_that_json_turns_into_text_count_as_text() -> None:
    written = binding.sealed({"by size": {10: "a", 9: "b"}})
    assert binding.is_untouched(json.loads(json.dumps(written)))


def test_a_value_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        binding.sealed({"drop": float("nan")})


def test_a_card_without_what_is_set_to_serve_it() -> None:
    card = {
        "labels": ["a"],
        "model": {"file": "model.pt", "threads": 1, "batch_sizes": [1]},
        "input": {"size": [8, 8], "max_pixels": 64, "max_length": 128},
        "serving": {"workers": 1},
    }
    tuned = {
        "labels": ["a"],
        "model": {"file": "model.pt", "threads": 2, "alternatives": ["model.onnx"]},
        "input": {"size": [8, 8], "max_request_pixels": 640, "max_length": 128},
    }
    assert binding.card_digest(card) == binding.card_digest(tuned)
    for section, key in (("model", "file"), ("input", "max_length")):
        other = {**card, section: {**card[section], key: 1}}  # type: ignore[dict-item]
        assert binding.card_digest(other) != binding.card_digest(card)


def test_only_a_report_with_digests_is_bound() -> None:
    assert not binding.is_bound({"gate": {"passed": True}, "files": {}})
    assert binding.is_bound(binding.sealed(REPORT))
    assert binding.is_bound({"files": {"model.pt": "0" * 64}})
    both = {"files": {"a": "1", "model.json": "2"}, "exports": {"onnx": {"sha256": {"b": "3"}}}}
    assert binding.named(both) == {"a": "1", "b": "3"}
