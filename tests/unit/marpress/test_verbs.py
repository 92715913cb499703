"""Every verb that prints a table has --json; nothing wraps at 80 columns, nothing is coloured."""

import argparse
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import deploy.__main__
import optimize.__main__
from optimize.report import report as reports
from optimize.report.compare import as_json
from tests.unit.optimize.report.reports import report

ROOT = Path(__file__).resolve().parents[3]
# These print sentences, an answer as it was sent, a key, a path, or serve until they are stopped.
NO_TABLE = {
    *("java", "start", "stop", "register", "scale", "default", "unregister", "predict", "token"),
    *("serve-archive", "flask", "console"),
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parser of every verb of both packages."""
    return {
        name: sub
        for module in (optimize.__main__, deploy.__main__)
        for action in module._parser("marpress")._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, sub in action.choices.items()
    }


@pytest.mark.parametrize("name", sorted(verbs()))
def test_a_verb_has_json_or_prints_no_table(name: str) -> None:
    has = any("--json" in action.option_strings for action in verbs()[name]._actions)
    assert has is (name not in NO_TABLE)


@pytest.fixture
def artifacts(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with a report each, one with names as long as they come."""
    long = report(recipe="r" * 50, warnings=["nothing is learned " * 9])
    long["stages"][0]["name"] = "sparsify_and_distil-2"
    long["gate"] |= {"passed": False, "reason": "accuracy lost too much, " * 5}
    for name, found in (("plain", report()), ("long", long)):
        (tmp_path / name).mkdir()
        reports.write(tmp_path / name, found)
    return tmp_path / "plain", tmp_path / "long"


def test_at_80_columns_no_line_wraps(
    artifacts: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    plain, long = map(str, artifacts)
    for words in (["report", plain], ["report", long], ["compare", plain, long]):
        assert optimize.__main__.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines and max(map(len, lines)) <= 80
        assert not any("\r" in line or "\x1b" in line for line in lines)


def test_reports_for_programs(
    artifacts: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, long = artifacts
    assert optimize.__main__.main(["report", str(plain), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == reports.read(plain) and said.err == ""
    assert optimize.__main__.main(["report", str(plain), "--html", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == reports.read(plain)
    assert said.err == f"{plain / 'report.html'}: open it in a browser\n"
    assert optimize.__main__.main(["compare", str(plain), str(long), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == as_json(report(), reports.read(long))
    assert found["first"]["value"] == 0.9257 and found["second"]["passed"] is False
    assert found["first"]["latency_ms"] == {"batch1_threads1": 0.0762}
    assert optimize.__main__.main(["report", str(plain.parent), "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_a_terminal_sees_no_colours(artifacts: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "optimize", "report", str(artifacts[1])]
    outer, inner = pty.openpty()
    done = subprocess.run(command, cwd=ROOT, stdout=inner, stderr=inner, check=True)
    os.close(inner)
    shown = b""
    while chunk := _read(outer):
        shown += chunk
    os.close(outer)
    assert done.returncode == 0 and b"\x1b" not in shown
    assert b"gate     FAILED" in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the end of a terminal
        return b""
