"""The examples beside a report."""

from pathlib import Path

import pytest

from optimize.errors import EvidenceError
from optimize.evaluation.examples import Example
from optimize.report import example_file

SHOWN = [
    Example("text", "a <b>text</b>", "good", "good 90%", "bad 60%", "probability of good fell"),
    Example("recording", [0, 50, 100], "hello", "hello", "hollow", "1 word differs"),
]


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    entry = example_file.write(tmp_path, SHOWN)
    assert entry is not None and entry["count"] == 2
    assert example_file.write(tmp_path, SHOWN) == entry  # the same bytes again
    assert example_file.read(tmp_path, {"examples": entry}) == SHOWN


def test_without_examples_there_is_no_file(tmp_path: Path) -> None:
    assert example_file.write(tmp_path, []) is None and not list(tmp_path.iterdir())
    assert example_file.read(tmp_path, {}) == []


def test_whoever_deletes_them_has_a_page_without(tmp_path: Path) -> None:
    entry = example_file.write(tmp_path, SHOWN)
    (tmp_path / example_file.NAME).unlink()
    assert example_file.read(tmp_path, {"examples": entry}) == []


def test_others_are_refused(tmp_path: Path) -> None:
    entry = example_file.write(tmp_path, SHOWN)
    example_file.write(tmp_path, SHOWN[:1])
    with pytest.raises(EvidenceError, match="delete it"):
        example_file.read(tmp_path, {"examples": entry})
