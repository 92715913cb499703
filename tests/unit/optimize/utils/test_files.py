import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path

import pytest

from optimize.errors import StorageError
from optimize.utils import files


def test_a_failed_write_leaves_the_good_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"good")

    def half(aside: Path) -> None:
        aside.write_bytes(b"ha")
        raise ValueError("interrupted")

    with pytest.raises(ValueError, match="interrupted"):
        files.write(path, half)
    assert path.read_bytes() == b"good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_says_so(tmp_path: Path) -> None:
    def full(aside: Path) -> None:
        aside.write_bytes(b"ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="no space") as caught:
        files.write(tmp_path / "model.pt", full)
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    folder.mkdir()
    (folder / "old").touch()
    with files.replacing(folder) as aside:
        aside.mkdir()
        (aside / "new").touch()
    assert [f.name for f in folder.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [folder]


def test_json_is_whole_and_finite(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a" / "x.json", {"b": [1, 2]})
    assert (tmp_path / "a" / "x.json").read_text().endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "y.json", float("nan"))
    assert not (tmp_path / "y.json").exists()


GONE = 2**22 + 1  # above Linux's largest process number


def test_what_killed_processes_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "exports" / f".onnx.{GONE}.tmp").mkdir(parents=True)
    (tmp_path / f".model.pt.{GONE}.tmp").touch()
    kept = [tmp_path / f".model.pt.{os.getpid()}.tmp", tmp_path / ".mine.tmp", tmp_path / "a.tmp"]
    for path in kept:
        path.touch()
    files.sweep(tmp_path)
    found = {path for path in tmp_path.rglob("*") if path.name != "exports"}
    assert found == set(kept)


def test_private_folders_are_private_and_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files.private() as folder:
        assert folder.parent == tmp_path and stat.S_IMODE(folder.stat().st_mode) == 0o700
        dead = tmp_path / f"marpress-run-{GONE}-x"
        dead.mkdir()
        (dead / "original.pt").touch()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (tmp_path / f"marpress-run-{GONE}-link").symlink_to(elsewhere)
        files.sweep_private()
        assert folder.is_dir() and elsewhere.is_dir() and not dead.exists()
    assert not folder.exists()


def test_a_moved_file_is_whole_or_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"content")
    with pytest.raises(FileNotFoundError):
        files.move(tmp_path / "source", tmp_path / "no" / "target")
    files.move(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"content" and not (tmp_path / "source").exists()
    assert files.digests(tmp_path) == {"target": hashlib.sha256(b"content").hexdigest()}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "no space left to write /a/b"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "cannot write /a/b: Read-only"),
        (OSError(errno.EIO, "Input/output error", "/a/b"), "Input/output error: /a/b"),
        (OSError("a library's own"), None),
        (RuntimeError("PytorchStreamWriter failed writing file"), "no space"),
        (RuntimeError("shape mismatch"), None),
    ],
)  # fmt: skip
def test_errors_of_the_environment_are_told_from_others(
    error: OSError | RuntimeError, words: str | None
) -> None:
    said = files.environment(error)
    assert (said is None) == (words is None)
    assert words is None or words in str(said)
