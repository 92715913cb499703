"""What deploy's verbs print where a terminal has 80 columns, and as JSON."""

import json
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.output import folded
from deploy.tune.command import show
from deploy.tune.search import Goal, Tried
from deploy.tune.settings import Settings
from deploy.tune.trial import Point
from tests.integration import quadrant

SIGNATURE = {"state": "unsigned", "key": "", "text": "unsigned"}


@pytest.fixture
def store(artifact: Path, tmp_path: Path) -> list[str]:
    """The options that name the artifact's folder and an empty model store."""
    return ["--artifacts", str(artifact.parent), "--model-store", str(tmp_path / "store")]


def test_archive_and_emit_for_programs(
    store: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["archive", "quadrant", "--json", *store]) == 0
    found = json.loads(capsys.readouterr().out)
    path = tmp_path / "store" / "quadrant.mar"
    assert found == {
        "path": str(path),
        "model": "quadrant",
        "version": found["version"],
        "bytes": path.stat().st_size,
        "sha256": quadrant.sha256(path),
        "signature": SIGNATURE,
    }
    folder = tmp_path / "docker"
    assert main(["emit", "docker", "quadrant", "--output", str(folder), "--json", *store]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "path": str(folder),
        "model": "quadrant",
        "version": found["version"],
        "target": "docker",
        "next": f"docker build -t quadrant {folder}",
    }


def test_a_failed_gate_prints_no_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quadrant.make(tmp_path, "failed", passed=False)
    store = ["--artifacts", str(tmp_path), "--model-store", str(tmp_path / "store")]
    assert main(["archive", "failed", "--json", *store]) == 3
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("deploy archive: ")


def test_errors_are_folded_at_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quadrant.make(Path("artifacts"), "failed", passed=False)
    assert main(["archive", "failed"]) == 3
    whole = capsys.readouterr().err
    assert max(map(len, whole.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["archive", "failed"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(whole.split())


def test_a_row_goes_on_under_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert folded("packages numpy, torch (2 of 2 not installed)").splitlines() == [
        "packages numpy, torch (2 of 2",
        "  not installed)",
    ]
    assert folded("model    fashion, registered already").splitlines() == [
        "model    fashion, registered",
        "         already",
    ]


def test_the_table_of_tune_has_80_columns() -> None:
    points = [Point(n, 12345.6, 12345.6, 12345.6, 1234.56, 12345.6, 0) for n in (1, 16, 1024)]
    widest = Tried(Settings(16, 16, 8, 5), points, [12345.6])
    lines: list[str] = []
    show([widest], widest, Goal(0.05, (1, 16, 1024)), lines.append)
    assert max(len(line) for line in lines[:-1]) <= 80  # the last one is a sentence
    assert lines[1].split() == [
        *("*", "16", "x", "16", "threads,", "batch", "8,", "delay", "5", "ms"),
        *("1", "12346", "12346", "1234.6", "12346"),
    ]
    assert lines[3].split() == ["1024", "12346", "12346", "1234.6", "12346"]
