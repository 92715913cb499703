"""`deploy verify`: a table of what a whole archive claims, a sentence for one that is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy import verdict
from deploy.__main__ import main
from deploy.archive import mar
from deploy.signing import keys
from handlers import binding
from tests.integration import quadrant


def report(**changes: Any) -> dict[str, Any]:
    """quadrant's, with an interval and the criteria of its gate."""
    made = quadrant.report()
    made["final"]["ci95"] = [0.9876, 0.9961]
    criterion = {"metric": "accuracy_drop", "comparator": "<=", "threshold": 0.01}
    made["gate"]["criteria"] = [{**criterion, "value": 0.0075, "samples": 4}]
    return {**made, **changes}


@pytest.fixture
def archive(artifact: Path, tmp_path: Path) -> Path:
    quadrant.write(artifact / "report.json", report())
    return mar.seal(artifact, tmp_path / "store", version="1.2").path


def test_the_table_of_a_whole_archive(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(archive)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "model quadrant version 1.2 archive" in text
    assert (
        "measured accuracy 99.25 %, 95% interval 98.76 to 99.61, 4 samples; 100.00 before" in text
    )
    assert "budget accuracy_drop <= 0.01 (0.0075 on 4)" in text
    assert "gate passed" in text and "signed unsigned" in text
    store = ["--model-store", str(archive.parent)]
    assert main(["verify", "quadrant", *store]) == 0, "by its name in the model store"
    assert capsys.readouterr().out.splitlines() == lines


def test_the_same_for_programs(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(archive), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["version"], found["bound"]) == ("quadrant", "1.2", True)
    assert found["sha256"] == quadrant.sha256(archive)
    assert found["metric"] == {
        "name": "accuracy",
        "value": 0.9925,
        "interval95": [0.9876, 0.9961],
        "samples": 4,
    }
    assert found["signature"]["state"] == "unsigned"


def test_a_changed_archive_is_6_and_no_archive_2(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed.mar"
    changed.write_bytes(archive.read_bytes().replace(b"accuracy", b"Accuracy"))
    assert main(["verify", str(changed)]) == 6
    refused = capsys.readouterr()
    assert refused.out == "" and "damaged at report.json" in refused.err
    assert main(["verify", str(tmp_path / "none.mar")]) == 2
    assert "no archive at" in capsys.readouterr().err


def test_a_key_asks_for_its_signature(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curves = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    made = curves.generate_private_key(curves.SECP256R1()).public_key()
    public = tmp_path / "key.pem"
    public.write_bytes(keys.of(made, "a key").pem)
    assert main(["verify", str(archive), "--key", str(public)]) == 6
    assert "is not signed by a key that you trust: unsigned" in capsys.readouterr().err


def test_a_failed_gate_is_told(artifact: Path, tmp_path: Path) -> None:
    quadrant.write(artifact / "report.json", quadrant.report(passed=False))
    sealed = mar.seal(artifact, tmp_path, force=True)
    rows = verdict.claimed(sealed, json.loads((artifact / "report.json").read_text()), 7)
    assert rows["gate"] == "FAILED, sealed with --force"
    assert rows["budget"] == "the report states none"


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"metric": None, "final": [], "gate": []},
        {"metric": {"name": ["x"], "scale": "1", "digits": 2}, "final": {}, "original": {}},
        {"gate": {"criteria": [{"metric": "m"}]}},
        {"gate": {"criteria": 3, "passed": "yes", "reason": 4}},
    ],
)
def test_a_strange_report_is_no_traceback(
    artifact: Path, tmp_path: Path, strange: dict[str, Any]
) -> None:
    sealed = mar.seal(artifact, tmp_path)
    rows = verdict.claimed(sealed, binding.sealed(strange), 7)
    assert verdict.table(rows)
    assert "passed" not in rows["gate"]
    assert rows["measured"] == "the report says no metric with interval and samples"
    assert json.dumps(verdict.as_json(sealed, strange, verdict.Signed("unsigned")))


def test_what_an_archive_says_moves_no_cursor_and_fills_no_screen() -> None:
    lines = verdict.table({"model": "x\x1b[2J\x07" + "long " * 10_000})
    assert "".join(lines).isprintable()
    assert len(lines) < 10 and all(len(line) <= 80 for line in lines)
