"""Signatures with a key of the user's own, for files that run code when they are read.

A pickle is a program. One that this user wrote carries an HMAC-SHA256 under a key that nobody
else can read; every other one is left alone.
"""

import hashlib
import hmac
import os
import stat
from pathlib import Path

_BYTES = 32


class Untrusted(Exception):
    """A file that was not signed with this user's key; `str` says so in a sentence's end."""


def key_file() -> Path:
    """Where the key lies: `marpress/stages.key` in the user's configuration folder."""
    named = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(named) if Path(named).is_absolute() else Path.home() / ".config"
    return base / "marpress" / "stages.key"


def sign(content: bytes, purpose: str) -> str | None:
    """The signature of `content`, made for `purpose` alone; None where no key can be kept."""
    try:
        key = _read() or _create()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        return None
    return _mac(key, content, purpose)


def check(content: bytes, purpose: str, signature: object) -> None:
    """Return if `sign` gave this signature to this user.

    Raises:
        Untrusted: it did not, or the key is gone.
    """
    try:
        key = _read()
    except (OSError, RuntimeError):
        key = None
    if key is None:
        raise Untrusted(f"there is no key in {key_file()} to check its signature with")
    if not isinstance(signature, str) or not hmac.compare_digest(
        _mac(key, content, purpose).encode(), signature.encode()
    ):
        raise Untrusted("it is damaged, or was not signed with your key")


def _mac(key: bytes, content: bytes, purpose: str) -> str:
    total = hmac.new(key, hashlib.sha256(purpose.encode()).digest(), hashlib.sha256)
    total.update(content)
    return total.hexdigest()


def _place(aside: Path, path: Path) -> None:
    """Put a new key where there is none; if another process was first, its key stays."""
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        aside.replace(path)


def _read() -> bytes | None:
    """The key; None if there is none that only this user can read and write."""
    try:
        file = os.open(key_file(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        status = os.fstat(file)
        private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
        key = opened.read(_BYTES + 1)
    return key if private and len(key) == _BYTES else None


def _create() -> bytes:
    """A new key; in place of one that others could read, or that is damaged."""
    path = key_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(os.urandom(_BYTES))
        if path.exists():
            aside.replace(path)
        else:
            _place(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    key = _read()
    if key is None:
        raise OSError(f"{path} cannot be kept from others")
    return key
