import json
from pathlib import Path
from typing import Any

import pytest

from optimize.errors import EvidenceError, OptionError
from optimize.report import compare
from optimize.tasks.speech import WORD_ERROR_RATE
from tests.unit.optimize.report.reports import metrics, report


def saved(folder: Path, evidence: Any) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(evidence), encoding="utf-8")
    return folder


def test_two_artifacts_side_by_side(tmp_path: Path) -> None:
    first = compare.whole(saved(tmp_path / "a", report()))
    final = metrics(0.9307, 88_248, 0.0381)
    second = compare.whole(saved(tmp_path / "b", report(final=final, recipe="other")))
    lines = compare.compare(first, second)
    assert all(len(line) <= 80 for line in lines)
    rows = {line[:24].strip(): line[24:].split(None, 2) for line in lines}
    assert rows["accuracy"] == ["0.9257", "0.9307", "0.50 pt higher"]
    assert rows["file"] == ["44.1", "KB", "88.2 KB        2x larger"]
    assert rows["ms, batch 1, 1 thread"] == ["0.0762", "0.0381", "2x faster"]
    assert rows["gate"] == ["passed", "passed"]
    assert not any(line.startswith("note") for line in lines)


def test_what_makes_rows_incomparable_is_said() -> None:
    second = report(
        created="2026-02-02T03:04:05+00:00", versions={"python": "3.12.1", "torch": "2"}
    )
    second["data"]["fingerprint"] = "other"
    lines = compare.compare(report(), second)
    assert [line[:30] for line in lines if line.startswith("note")] == [
        "note: measured on different da",
        "note: latencies come from two ",
        "note: torch 2.13.0 and 2",
        "note: python 3.11.7 and 3.12.1",
    ]
    second["machine"]["processor"] = "another"
    assert any("different processors" in line for line in compare.compare(report(), second))


def test_long_names_stay_within_80_columns() -> None:
    second = report(recipe="n" * 70)
    second["stages"] = [{"name": "s" * 60, **metrics(0.9, 1, 1.0)}]
    assert all(len(line) <= 80 for line in compare.compare(second, second))


def test_different_tasks_are_refused() -> None:
    second = report()
    second["final"]["wer"] = 1 - second["final"].pop("accuracy")
    second["metric"] = WORD_ERROR_RATE.to_json()
    with pytest.raises(OptionError, match="different tasks"):
        compare.compare(report(), second)


partial = report()
del partial["final"]["bytes"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[1, 2]", "not a report"),
        ("{}", "required"),
        ('{"name": "another tool", "score": 3}', "required"),
        (json.dumps(partial), "'bytes' is a required property"),
        (json.dumps(report(gate={"passed": True})), "gate"),
        (json.dumps(report(final=metrics(1.5, 1, 1.0))), "final"),
    ],
)
def test_a_report_that_is_not_whole_is_refused(tmp_path: Path, content: str, word: str) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(OptionError) as caught:
        compare.whole(tmp_path)
    assert word in str(caught.value) and str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_edited_report_is_not_compared(tmp_path: Path) -> None:
    better = report()
    better["final"]["accuracy"] = 0.9999
    with pytest.raises(EvidenceError, match=r"report\.json was edited after the run") as caught:
        compare.whole(saved(tmp_path / "a", better))
    assert caught.value.exit_code == 6


def test_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="not a folder"):
        compare.whole(tmp_path / "none")
    with pytest.raises(OptionError, match=r"has no report\.json"):
        compare.whole(tmp_path)
