"""Only folders with our mark, where we make them, are ever deleted."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from deploy import scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_of_ours_is_private_and_goes() -> None:
    folder = scratch.make("test")
    assert folder.stat().st_mode & 0o777 == 0o700
    (folder / "file").touch()
    assert scratch.remove(folder)
    assert not folder.exists()


def test_other_folders_stay(tmp_path: Path) -> None:
    marked_elsewhere = tmp_path / "deep" / "marpress-server-x"
    unmarked = tmp_path / "marpress-server-y"
    misnamed = tmp_path / "precious"
    for folder in (marked_elsewhere, unmarked, misnamed):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    for folder in (marked_elsewhere, misnamed):
        scratch.own(folder, os.getpid())
    link = tmp_path / "marpress-server-z"
    link.symlink_to(misnamed, target_is_directory=True)
    for folder in (marked_elsewhere, unmarked, misnamed, link, tmp_path / "none", Path("/")):
        assert not scratch.remove(folder)
    assert (misnamed / "file").exists() and (unmarked / "file").exists()
    assert (marked_elsewhere / "file").exists()


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    own, left = scratch.make("test"), scratch.make("test")
    other_kind = scratch.make("other")
    dead = subprocess.Popen(["sleep", "60"])
    for folder in (left, other_kind):
        scratch.own(folder, dead.pid)
    scratch.sweep("test")
    assert left.exists(), "its process lives"
    dead.kill()
    dead.wait()
    with scratch.folder("test") as made:
        assert not left.exists()
        assert own.exists() and other_kind.exists() and made.exists()
    assert not made.exists()
