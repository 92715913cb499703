"""`deploy evidence`: readable at 80 columns, the files as packed, and who signed them."""

import json
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.archive import mar
from deploy.signing import beside, envelope
from tests.unit.deploy.evidence import stated
from tests.unit.deploy.signing import made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with a signed archive, and the keys beside it."""
    folder = tmp_path_factory.mktemp("claims")
    key = made.pair(folder).private
    mar.seal(stated.make(folder / "artifacts"), folder / "model_store", key=key)
    return folder


def run(place: Path, *arguments: object) -> int:
    shared = ("--model-store", place / "model_store", "--config", place / "config.properties")
    return main(["evidence", *map(str, (*arguments, *shared))])


def test_it_is_readable(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "quadrant", "--key", place / "release.pub.pem") == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for text in (
        "signature  by release (key ",
        "statement  in-toto, by release (key ",
        "0.9257, 95% interval 0.9157 to 0.9357; the original's 0.9316",
        "claim      holds: accuracy_drop <= 0.01, measured 0.0059 on 1234",
        "budget     fixed 2026-01-02T03:00:00+00:00, SHA-256 dddddddddddddddd",
        "package    torch 2.13.0, BSD-3-Clause",
    ):
        assert text in shown


def test_the_files_come_as_they_were_packed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = place / "model_store" / "quadrant.mar"
    assert run(place, archive, "--statement") == 0
    text = capsys.readouterr().out
    assert json.loads(text)["predicateType"].endswith("/eval-result/v0.1")
    key = made.keys.public(place / "release.pub.pem")
    assert envelope.verified(beside.statement(archive).read_bytes(), key) == text.encode()
    assert run(place, archive, "--bom") == 0
    bill = json.loads(capsys.readouterr().out)
    assert bill["bomFormat"] == "CycloneDX"
    named = {part["name"] for part in bill["components"] if part["type"] == "file"}
    assert {"model.pt", "statement.json", "report.json", "handlers/base.py"} <= named
    assert run(place, archive, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["signature"]["state"] == told["statement_signature"]["state"] == "unknown"
    assert told["bom"] == bill and told["statement"] == json.loads(text)


def test_an_unsigned_archive_is_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mar.seal(stated.make(tmp_path / "artifacts"), tmp_path / "model_store")
    assert run(tmp_path, "quadrant") == 0
    shown = capsys.readouterr().out
    assert "signature  unsigned\n" in shown and "statement  in-toto, unsigned\n" in shown


def test_a_wrong_signature_is_an_error(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another statement by the right key is as wrong as no signature of its."""
    store = tmp_path / "model_store"
    key = made.pair(tmp_path)
    archive = mar.seal(stated.make(tmp_path / "artifacts"), store, key=key.private).path
    other = (place / "model_store" / "quadrant.mar.intoto.json").read_bytes()
    for data in (
        other,
        other.replace(b'"keyid": "', b'"keyid": "0'),
        envelope.sign(b"{}", key.private),
        b"nothing",
    ):
        beside.write(beside.statement(archive), data)
        told = run(tmp_path, "quadrant", "--key", key.public_file)
        known = b"keyid" in data and key.public.fingerprint.encode() not in data
        assert told == (0 if known else 6), data[:80]
        shown = capsys.readouterr().out
        assert ("unknown key" if known else "WRONG") in shown.partition("about")[0]


def test_an_old_archive_has_none(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose report says nothing of criteria."""
    mar.seal(artifact, tmp_path / "model_store")
    assert run(tmp_path, "quadrant") == 0
    assert "no statement" in capsys.readouterr().out
    assert run(tmp_path, "quadrant", "--statement") == 2
    assert "holds no statement.json" in capsys.readouterr().err
    assert run(tmp_path, "gone") == 2
