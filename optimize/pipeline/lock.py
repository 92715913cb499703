"""One run at a time in an artifact's folder.

The kernel holds the lock (`flock`) for as long as the process lives, so a killed run leaves
nothing that blocks the next one; the file says whose lock it is.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from optimize.errors import FolderBusy, StorageError

NAME = ".lock"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other runs out of `folder` until the block ends; makes the folder.

    Raises:
        FolderBusy: another process is at work there; says which one.
        StorageError: the folder cannot be made or written to.
    """
    path = folder / NAME
    try:
        file = _locked(path)
    except BlockingIOError as error:
        raise FolderBusy(
            f"{folder} is in use by {_owner(path)}: wait for it to end, or choose another --output"
        ) from error
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror}; make it writable, or choose another "
            "--output"
        ) from error
    try:
        _sign(file, folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            if [entry.name for entry in folder.iterdir()] == [NAME]:  # nothing was made
                path.unlink()
                folder.rmdir()
        os.close(file)


def _locked(path: Path) -> int:
    """The open lock file. Raises BlockingIOError if another process holds it."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # its last holder has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                return file  # a file system without locks: better unguarded than unusable
            os.close(file)
            raise
        os.close(file)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def _sign(file: int, folder: Path) -> None:
    """Write whose lock it is, for the message that another process prints."""
    owner = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(owner).encode(), 0)
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder}: {error.strerror}; free some space"
        ) from error


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, which began at {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is writing these lines just now
        return "another process"
