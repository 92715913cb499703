"""`marpress init`: the folder, and a recipe where one is asked for."""

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from marpress.__main__ import main
from tests.unit.optimize.draft import made

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made.table(tmp_path / "houses.csv", 50)
    (tmp_path / "net.py").write_text(made.TABLE_NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_flags_make_a_recipe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["init", "--data", "houses.csv", "--model", "net.py", "--max-drop", "0.05"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0] == "config.properties"
    assert shown.endswith("recipe houses.yaml\nnext   python -m marpress run houses.yaml\n")
    text = (place / "houses.yaml").read_text()
    schema = text.partition("\n")[0].partition("$schema=")[2]
    assert (place / schema).is_file()
    assert "max_drop: 0.05" in text
    assert main(words) == 2
    assert "houses.yaml is there already" in capsys.readouterr().err
    assert main([*words, "--name", "second", "--target", "cost"]) == 4
    assert "no column cost" in capsys.readouterr().err and not (place / "second.yaml").exists()


def test_half_a_recipe_is_refused_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", "houses.csv"]) == 2
    assert "both --data and --model" in capsys.readouterr().err
    assert not (place / "config.properties").exists()


def test_without_a_terminal_nothing_is_asked(place: Path) -> None:
    assert main(["init"]) == 0  # pytest's standard input is no terminal
    assert (place / "recipes" / "recipe.schema.json").is_file()
    assert sorted(path.name for path in place.glob("*.yaml")) == []


def test_in_a_terminal_it_asks(place: Path) -> None:
    outer, inner = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "marpress", "init"],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(inner)
    os.write(outer, b"houses.csv\n\nnet.py\n2\n\n")
    shown = b""
    try:
        while chunk := os.read(outer, 65536):
            shown += chunk
    except OSError:  # the end of a terminal
        pass
    os.close(outer)
    assert started.wait(60) == 0, shown.decode()
    assert b"5/5" in shown and b"next   python -m marpress run houses.yaml" in shown
    assert "max_drop: 0.02" in (place / "houses.yaml").read_text()


@pytest.mark.parametrize("folder", ["net.py", "net.py/below"])
def test_a_folder_that_cannot_be_written_to(
    place: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", folder]) == 7
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: Not a directory: net.py")


def test_a_full_disk_leaves_no_part_of_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_off(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", cut_off)
        assert main(["init"]) == 7
    assert "no space left" in capsys.readouterr().err
    assert not (place / "config.properties").exists()
    assert main(["init"]) == 0
    assert (place / "config.properties").stat().st_size > 10


def test_a_standard_input_that_was_closed_is_no_terminal(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["init"]) == 0


@pytest.mark.parametrize("most", ["-1", "nan", "inf"])
def test_a_budget_that_cannot_be(
    place: Path, most: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--data", "houses.csv", "--model", "net.py", f"--max-drop={most}"]) == 2
    assert "error: --max-drop must be" in capsys.readouterr().err
