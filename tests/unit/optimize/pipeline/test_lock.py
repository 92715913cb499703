"""One run at a time in a folder, and a killed one leaves nothing that blocks the next."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from optimize.errors import FolderBusy, StorageError
from optimize.pipeline import lock
from optimize.run import run
from optimize.tasks.registry import read_recipe

HOLD = """
import sys
from pathlib import Path
from optimize.pipeline import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path):
    """A process that is at work in `tmp_path`/out."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_run_is_told_who_is_at_work(
    other: subprocess.Popen[str], tmp_path: Path, recipe_file: Path
) -> None:
    checked = read_recipe(recipe_file)
    for resume in (False, True):
        with pytest.raises(FolderBusy, match=f"process {other.pid} on ") as caught:
            run(checked, tmp_path / "out", resume=resume, say=lambda line: None)
        assert socket.gethostname() in str(caught.value)
        assert caught.value.exit_code == 7
    assert [path.name for path in (tmp_path / "out").iterdir()] == [lock.NAME]


def test_a_killed_run_blocks_nobody(other: subprocess.Popen[str], tmp_path: Path) -> None:
    other.kill()
    other.wait()
    with lock.held(tmp_path / "out"), pytest.raises(FolderBusy, match=f"process {os.getpid()}"):
        lock.held(tmp_path / "out").__enter__()
    with lock.held(tmp_path / "out"):
        pass


def test_a_run_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    with lock.held(tmp_path / "a" / "out"):
        assert (tmp_path / "a" / "out").is_dir()
    assert not (tmp_path / "a" / "out").exists()
    with lock.held(tmp_path / "out"):
        (tmp_path / "out" / "model.pt").touch()
    assert (tmp_path / "out" / "model.pt").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write to .*choose another --output"):
        lock.held(tmp_path / "file" / "out").__enter__()
