import errno
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
