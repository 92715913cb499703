"""Temporary folders that carry our mark, so that only those are ever deleted, and all of them.

A process that is killed leaves its folder behind; the next one sweeps it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

MARK = ".marpress"
PREFIX = "marpress-"


def make(kind: str) -> Path:
    """A new folder that only its owner can read, for `kind` of work; this process owns it."""
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-" if kind else PREFIX))
    own(folder, os.getpid())
    return folder


def own(folder: Path, pid: int) -> None:
    """Mark the folder as a process's: it may be swept once that process is gone."""
    mark = {"pid": pid, "created": psutil.Process(pid).create_time()}
    (folder / MARK).write_text(json.dumps(mark), encoding="utf-8")


def remove(folder: Path) -> bool:
    """Delete a folder if it is one of ours: marked, and where we make them. Whether it was."""
    if not _is_ours(folder):
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def remove_left(folder: Path) -> bool:
    """`remove`, unless the process that owns the folder lives."""
    return is_left(folder) and remove(folder)


def is_left(folder: Path) -> bool:
    """Whether the folder is one of ours and the process that owned it is gone."""
    return _is_ours(folder) and not _lives(folder)


@contextmanager
def folder(kind: str) -> Iterator[Path]:
    """A folder for a while; what killed processes left of this kind is swept first."""
    sweep(kind)
    made = make(kind)
    try:
        yield made
    finally:
        remove(made)


def sweep(kind: str) -> None:
    """Delete the folders of this kind whose process is gone."""
    for found in Path(tempfile.gettempdir()).glob(f"{PREFIX}{kind}-*" if kind else f"{PREFIX}*"):
        remove_left(found)


def _is_ours(folder: Path) -> bool:
    places = {Path(tempfile.gettempdir()).resolve(), Path("/tmp")}
    with suppress(OSError):
        return (
            folder.name.startswith(PREFIX)
            and folder.parent.resolve() in places
            and not folder.is_symlink()
            and folder.is_dir()
            and folder.stat().st_uid == os.geteuid()
            and (folder / MARK).is_file()
        )
    return False


def _lives(folder: Path) -> bool:
    """Whether the process that owns the folder runs; a mark without sense is taken for a yes."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        started = psutil.Process(int(mark["pid"])).create_time()
        return abs(started - float(mark["created"])) < 1
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    except (OSError, ValueError, TypeError, KeyError, OverflowError, psutil.Error):
        return True
