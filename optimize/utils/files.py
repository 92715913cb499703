"""Atomic file writes: write to a temporary path beside the target, then rename."""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimize.errors import StorageError

logger = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What torch's writer of files raises, a RuntimeError, when a write fails.
_TORCH_WRITES = (
    *("PytorchStreamWriter failed", "unexpected pos", "cannot be opened"),
    *("iostream error", "file write failed"),
)
_NOT_ALLOWED = (errno.EACCES, errno.EROFS, errno.EPERM)
_PRIVATE = "marpress-run-"
_ASIDE = re.compile(r"\..+\.(\d+)\.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to `path` when the block succeeds.

    Works for files and folders. On failure the temporary path is removed and `path` is unchanged.
    What was renamed is on the disk: it survives a loss of power.

    Raises:
        StorageError: the disk is full or the folder cannot be written to.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield aside
            _flush(aside)
            if aside.is_dir() and path.exists():
                shutil.rmtree(path)
            aside.replace(path)
            _flush_folder(path.parent)
            logger.debug("wrote %s", path)
        finally:
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):  # the first error says what is wrong
                    aside.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a full disk or a missing permission within the block into a sentence about `path`.

    Raises:
        StorageError: the block raised an OSError of these kinds.
    """
    try:
        yield
    except OSError as error:
        sentence = refusal(error, path)
        if sentence is None:
            raise
        raise StorageError(sentence) from error


def refusal(error: OSError, path: Path | str) -> str | None:
    """What to tell whoever cannot write `path` for want of space or permission, or None."""
    if error.errno in _NO_SPACE:
        return f"no space left to write {path}; free some and run again"
    if error.errno in _NOT_ALLOWED:
        return (
            f"cannot write {path}: {error.strerror}; make it writable, or choose another --output"
        )
    return None


def environment(error: OSError | RuntimeError) -> str | None:
    """What to tell a user of an error that their disk or system raised; None for any other."""
    if isinstance(error, OSError):
        if error.errno is None:  # raised by a library for something else
            return None
        path = error.filename or "the output"
        return refusal(error, path) or f"{error.strerror}: {path}; make it usable and run again"
    if any(text in str(error) for text in _TORCH_WRITES):
        return f"no space left, or no permission, to write a file: {str(error).splitlines()[0]}"
    return None


def move(source: Path, target: Path) -> None:
    """Rename `source` to `target` on the same disk, so that it survives a loss of power."""
    with explained(target):
        _flush(source)
        source.replace(target)
        _flush_folder(target.parent)


def write(path: Path, save: Callable[[Path], Any]) -> None:
    """Call `save` with a temporary path, then rename it to `path`."""
    with replacing(path) as aside:
        save(aside)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline; NaN raises ValueError."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder`, by its path relative to it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def sweep(folder: Path) -> None:
    """Remove, at any depth, the temporary paths that killed processes left in `folder`."""
    for aside in folder.rglob(".*.tmp"):
        named = _ASIDE.fullmatch(aside.name)
        if named is None or _alive(int(named[1])):
            continue
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


@contextmanager
def private() -> Iterator[Path]:
    """A temporary folder that only this user can enter, removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"{_PRIVATE}{os.getpid()}-") as folder:
        yield Path(folder)


def sweep_private() -> None:
    """Remove the `private` folders that killed processes of this user left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*-*"):
        number = folder.name.removeprefix(_PRIVATE).partition("-")[0]
        with contextlib.suppress(OSError):  # another process was first
            status = folder.lstat()
            ours = status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode)
            if ours and number.isdigit() and not _alive(int(number)):
                shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OverflowError, PermissionError):  # no number of ours; another user's process
        return True
    return True


def _flush(path: Path) -> None:
    """Have the content of a file, or of every file in a folder, on the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_dir():
            _flush_folder(file)
        elif file.is_file():
            _sync(file)
    if path.is_dir():
        _flush_folder(path)


def _flush_folder(path: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        _sync(path)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
