"""The table of formats, from reports."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import formats_table
from optimize.evaluation.metrics import ACCURACY, Metric
from optimize.report import report
from optimize.tasks.speech import WORD_ERROR_RATE


def entry(**changed: Any) -> dict[str, Any]:
    return {
        "format": "onnx",
        "bytes": 2_500_000,
        "parity": 0.0312,
        "accuracy": 0.9275,
        "samples": 2000,
        "agreement": 0.9981,
        "agreement_samples": 2000,
        "latency_ratios": {"eager": {"batch 1": 0.13, "batch 8": 0.25}},
        "versions": {"torch": "2.13.0", "onnx": "1.23.2"},
        **changed,
    }


def evidence(metric: Metric = ACCURACY, **exports: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": "small",
        "created": "2026-11-26T14:32:41+00:00",
        "machine": {"processor": "Some CPU"},
        "metric": metric.to_json(),
        "exports": exports,
    }


def test_a_file_is_a_row() -> None:
    (row,) = formats_table.rows(evidence(onnx=entry()))
    assert row == "| onnx | 2.5 MB | 0.031 | 92.75 % | 0.998 | 0.13 / 0.25 | - |"


def test_rows_are_in_the_formats_order() -> None:
    found = formats_table.rows(evidence(aoti=entry(format="aoti"), onnx=entry()))
    assert [row.split()[1] for row in found] == ["onnx", "aoti"]


def test_what_is_not_timed_is_left_open() -> None:
    (row,) = formats_table.rows(evidence(coreml=entry(latency_ratios=None)))
    assert row.endswith("| - | - |")


def test_fewer_samples_are_told_with_their_formats() -> None:
    few = entry(format="coreml", samples=57, agreement_samples=57)
    text = formats_table.model(evidence(onnx=entry(), openvino=entry(), coreml=few))
    assert "small: 3 files, 2,000 held-out samples (coreml: 57 held-out samples)" in text


def test_word_error_rate_is_named() -> None:
    spoken = entry(wer=0.0417)
    del spoken["accuracy"]
    text = formats_table.model(evidence(WORD_ERROR_RATE, onnx=spoken))
    assert "| word error rate |" in text
    assert "| 4.17 % |" in text


def test_versions_of_all_reports_are_there() -> None:
    other = evidence(tflite=entry(versions={"jax": "0.10.2"}))
    text = formats_table.table([evidence(onnx=entry()), other])
    assert "Some CPU, one thread, models of 2026-11-26." in text
    assert "Versions: jax 0.10.2, onnx 1.23.2, torch 2.13.0." in text


def test_only_the_marked_part_of_the_page_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "figures.md"
    page.write_text(
        f"before {formats_table.START}\nold\n{formats_table.END} after", encoding="utf-8"
    )
    folder = tmp_path / "artifacts" / "small"
    folder.mkdir(parents=True)
    report.write(folder, evidence(onnx=entry()))
    monkeypatch.setattr(formats_table, "PAGE", page)
    monkeypatch.setattr(sys, "argv", ["table", str(folder)])
    assert formats_table.main() == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before {formats_table.START}\n\n<details markdown>")
    assert text.endswith(f"\n\n{formats_table.END} after")
    assert "old" not in text


def test_without_exports_it_says_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    report.write(folder, evidence())
    monkeypatch.setattr(sys, "argv", ["table", str(folder)])
    assert formats_table.main() == 2
    assert "run `python -m optimize export`" in capsys.readouterr().err
