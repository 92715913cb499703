"""The lines that `serve` prints."""

from typing import Any

import pytest

from deploy import summary
from optimize.tasks.speech import WORD_ERROR_RATE
from optimize.tasks.text import METRICS
from tests.integration import quadrant


def test_the_headline_shows_accuracy_size_and_latency() -> None:
    assert summary.headline(quadrant.report()) == [
        "               before       after",
        "accuracy     100.00 %     99.25 %   0.75 points lower on 4 samples",
        "size           400 kB       10 kB   40.0x smaller",
        "latency          2 ms      0.1 ms   20.0x faster (batch 1, 1 thread)",
    ]


def test_a_word_error_rate_is_named_so() -> None:
    report = {
        "metric": WORD_ERROR_RATE.to_json(),
        "original": {"wer": 0.05},
        "final": {"wer": 0.06, "samples": 1234},
    }
    assert summary.headline(report)[1] == (
        "wer            5.00 %      6.00 %   1.00 points higher on 1,234 samples"
    )


def test_the_metric_that_the_gate_looks_at_is_shown() -> None:
    final = {"macro_f1": 0.9, "accuracy": 0.5, "samples": 10}
    metric = METRICS["macro_f1"].to_json()
    report = {"metric": metric, "original": {**final, "macro_f1": 0.8}, "final": final}
    assert summary.headline(report)[1] == (
        "macro_f1      80.00 %     90.00 %   10.00 points higher on 10 samples"
    )


@pytest.mark.parametrize("report", [{}, {"original": {}, "final": {}}, {"final": {"bytes": 3}}])
def test_a_report_without_figures_has_no_headline(report: dict[str, Any]) -> None:
    assert summary.headline(report) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (70_500, "70.5 kB"),
        (4_650_000, "4.65 MB"),
        (3e9, "3 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert summary.size(count) == text


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ({"predictions": [{"label": "a"}, {"label": "b"}]}, "a"),
        ({"text": "hello"}, "hello"),
        ({"label": "good"}, "good"),
        ({"predictions": []}, None),
        ("plain", None),
        ([1], None),
    ],
)
def test_the_label_of_an_answer(reply: Any, label: str | None) -> None:
    assert summary.answered_label(reply) == label
