"""The budget is fixed before the measurement, and a later change cannot be hidden by a new run."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from optimize.evaluation.metrics import ACCURACY
from optimize.recipe.schema import Budget
from optimize.report import preregistration


def fixed(folder: Path, data: str = "d" * 64, **budget: Any) -> dict[str, Any]:
    asked = preregistration.protocol("task", ACCURACY, data, 100, Budget(**budget))
    return preregistration.fix(folder, asked)


def test_what_was_fixed_first_stays(tmp_path: Path) -> None:
    first = fixed(tmp_path, max_drop=0.01)
    assert first["earlier"] == [] and preregistration.changed(first) == ""
    again = fixed(tmp_path, max_drop=0.01)
    assert again == first  # the time too


def test_the_digest_is_that_of_the_canonical_text(tmp_path: Path) -> None:
    found = fixed(tmp_path, max_drop=0.02, floor=0.5)
    text = (
        '{"budget":{"files_drop":0.02,"floor":0.5,"max_drop":0.02,"min_agreement":0.0},'
        f'"data":"{"d" * 64}","metric":"accuracy","samples":100,"task":"task"}}'
    )
    assert found["digest"] == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("field", ["max_drop", "min_agreement", "files_drop", "floor"])
def test_a_change_is_told_with_what_it_was(tmp_path: Path, field: str) -> None:
    first = fixed(tmp_path, **{field: 0.25})
    later = fixed(tmp_path, **{field: 0.5})
    assert [one["digest"] for one in later["earlier"]] == [first["digest"]]
    told = preregistration.changed(later)
    assert f"{field} was 0.25" in told and "after the test split had been measured" in told
    # Nor does it help to measure it again, or to go back: that one was there first.
    assert fixed(tmp_path, **{field: 0.5}) == later
    assert fixed(tmp_path, **{field: 0.25}) == first


def test_other_data_are_another_matter(tmp_path: Path) -> None:
    fixed(tmp_path, max_drop=0.01)
    assert fixed(tmp_path, data="e" * 64, max_drop=0.5)["earlier"] == []


def test_a_forged_or_broken_entry_counts_for_nothing(tmp_path: Path) -> None:
    first = fixed(tmp_path, max_drop=0.01)
    path = tmp_path / preregistration.FILE
    forged = json.loads(path.read_text())
    forged["fixed"][0]["protocol"]["budget"]["max_drop"] = 0.5
    path.write_text(json.dumps(forged))
    found = fixed(tmp_path, max_drop=0.5)
    assert found["earlier"] == [] and found["digest"] != first["digest"]
    for text in ("", "[]", '{"fixed": 3}', "{"):
        path.write_text(text)
        assert fixed(tmp_path, max_drop=0.5)["earlier"] == []


def test_no_part_of_a_budget_is_forgotten() -> None:
    """A new limit in Budget has to be fixed too."""
    asked = preregistration.protocol("task", ACCURACY, "d", 100, Budget())
    limits = {field.name for field in dataclasses.fields(Budget)} - {"objective", "where"}
    assert set(asked["budget"]) == limits
