"""Cards and reports that cannot be packed are refused with the field that is wrong."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.archive import card
from deploy.errors import BadInput, GateFailed
from tests.integration import quadrant


def changed(artifact: Path, path: str, value: Any) -> None:
    """Set the dotted `path` of the artifact's card to `value`, or delete it for None."""
    whole = json.loads((artifact / "model.json").read_text())
    *parents, last = path.split(".")
    section = whole
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[last]
    else:
        section[last] = value
    quadrant.write(artifact / "model.json", whole)


def test_a_good_card(artifact: Path) -> None:
    found = card.read_card(artifact)
    assert (found.name, found.handler, found.model_file) == (
        "quadrant",
        "image_classifier",
        "model.pt",
    )
    assert found.serving == card.Serving(1, 8, 20, 30, 120)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", None, "name must be a non-empty string"),
        ("name", "", "name must be"),
        ("name", "../up", "must be letters"),
        ("name", "sp ace", "must be letters"),
        ("name", "naïve", "must be letters"),
        ("handler", "os:system", "handler 'os:system' must be the name of a module"),
        ("handler", "../x", "must be the name of a module"),
        ("handler", 3, "handler must be a non-empty string"),
        ("model", [], "model must be an object"),
        ("model.file", None, "model.file must be"),
        ("model.file", "gone.pt", "gone.pt is missing"),
        ("model.file", "/etc/passwd", "inside the artifact folder"),
        ("model.file", "../model.pt", "inside the artifact folder"),
        ("model.file", "samples/0.png", "must lie in the folder itself"),
        ("files", "a.txt", "files must be a list"),
        ("files", [1], "files must be a list"),
        ("files", ["gone.txt"], "gone.txt is missing"),
        ("files", ["../../etc/passwd"], "inside the artifact folder"),
        ("files", ["samples"], "samples is missing"),
        ("serving", None, "serving must be an object"),
        ("serving.workers", 0, "serving.workers must be an integer of at least 1"),
        ("serving.workers", True, "serving.workers must be"),
        ("serving.workers", 4000, "serving.workers is 4000, 64 at most"),
        ("serving.batch_size", 10**6, "1024 at most"),
        ("serving.batch_size", "8", "serving.batch_size must be"),
        ("serving.max_batch_delay_ms", -1, "max_batch_delay_ms must be an integer of at least 0"),
        ("serving.response_timeout_s", 1.5, "serving.response_timeout_s must be"),
    ],
)
def test_a_bad_card(artifact: Path, path: str, value: Any, message: str) -> None:
    changed(artifact, path, value)
    with pytest.raises(BadInput, match=message):
        card.read_card(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "\ud800"])
def test_a_card_that_is_no_json_object(artifact: Path, text: str) -> None:
    (artifact / "model.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadInput, match=r"model\.json"):
        card.read_card(artifact)


def test_no_artifact_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"python -m optimize run recipes/nobody\.yaml"):
        card.read_card(tmp_path / "nobody")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"model\.json is missing"):
        card.read_card(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"report\.json is missing"):
        card.read_report(tmp_path / "empty")


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (None, "holds no passed gate"),
        ({}, "holds no passed gate"),
        ({"passed": "yes"}, "holds no passed gate"),
        ({"passed": 1}, "holds no passed gate"),
        ({"passed": False, "reason": "too sleepy"}, "too sleepy"),
        (quadrant.report(False)["gate"], "accuracy dropped by 0.0075 where 0.01 is allowed"),
    ],
)
def test_only_a_passed_gate_passes(artifact: Path, gate: Any, message: str) -> None:
    report = copy.deepcopy(quadrant.report())
    report["gate"] = gate
    with pytest.raises(GateFailed, match=message):
        card.check_gate(report, artifact)
    card.check_gate(quadrant.bound(artifact, quadrant.report()), artifact)


def test_a_report_that_names_no_files_passes_nothing(artifact: Path) -> None:
    with pytest.raises(GateFailed, match=r"written by hand and names no files.*--force"):
        card.check_gate(quadrant.report(), artifact)


def test_more_workers_than_the_cores_have_a_use_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card.cores, "usable", lambda: 2)
    card.check_workers(8, "quadrant")
    with pytest.raises(BadInput, match=r"asks for 9 workers; with 2 cores it may have 8"):
        card.check_workers(9, "quadrant")
