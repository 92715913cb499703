"""Figures in documents are those of `benchmarks/results`, and their picture shows them."""

import xml.etree.ElementTree as ET

import pytest

from benchmarks import before_after, figures, recipe_results


@pytest.mark.parametrize("name", ["README.md", "docs/figures.md", before_after.PICTURE])
def test_pages_hold_what_was_measured(name: str) -> None:
    text = (figures.ROOT / name).read_text(encoding="utf-8")
    assert text == figures.pages()[name], "run make figures"


def test_a_changed_figure_changes_pages_and_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = recipe_results.read()
    entries["photos"]["final"]["bytes"] = entries["photos"]["original"]["bytes"] / 7
    monkeypatch.setattr(recipe_results, "read", lambda: entries)
    assert all("7.0x" in text for text in figures.pages().values())


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    entry = {
        "original": {"bytes": 1000, "latency_ms": {"batch1_threads1": {"p50": 8.0}}},
        "final": {"bytes": 250, "latency_ms": {"batch1_threads1": {"p50": 2.0}}},
    }
    picture = ET.fromstring(before_after.draw({"one": entry}))
    bars = [
        float(bar.attrib["width"])
        for bar in picture.iter("{http://www.w3.org/2000/svg}rect")
        if bar.attrib.get("height") == "14"
    ]
    assert len(bars) == 4
    assert bars[1] == pytest.approx(bars[0] / 4, abs=0.1)
    assert bars[3] == pytest.approx(bars[2] / 4, abs=0.1)
