"""The model store: NAME.mar is the archive in use, earlier ones lie beside as NAME-VERSION.mar."""

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from deploy.archive.verify import Archive, identity, verify
from deploy.errors import BadInput
from deploy.signing import beside


def named(store: Path, text: str) -> Path:
    """The archive that a command's NAME|FILE means: a file, or a model's archive in use."""
    return Path(text) if text.endswith((".mar", ".tar.gz", ".tgz")) else current(store, text)


def current(store: Path, name: str) -> Path:
    """Where a model's archive in use lies."""
    return store / f"{name}.mar"


def versioned(store: Path, name: str, version: str) -> Path:
    """Where a version of a model lies under a name of its own."""
    return store / f"{name}-{version}.mar"


def in_use(store: Path) -> list[str]:
    """The file names of the archives in use, for a server that loads them all."""
    return [path.name for path in sorted(store.glob("*.mar")) if not _is_earlier(store, path)]


def aside(store: Path, name: str) -> Path:
    """A path to write an archive to before it is published.

    Hidden and without the suffix: `--models all` must never pick up a half-written archive. What
    a killed process left is deleted.
    """
    for left in store.glob(f".{name}.mar.*"):
        pid = next(filter(str.isdecimal, left.name.split(".")[::-1]), "")
        if pid and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)
    return store / f".{name}.mar.{os.getpid()}"


def publish(written: Path, target: Path) -> None:
    """Give a written archive its name, in one step that outlives a loss of power.

    What lies beside it goes first: a loss of power in between leaves a signature that does not fit.
    """
    with written.open("rb") as file:
        os.fsync(file.fileno())
    beside.carry(written, target)
    beside.remove(written)
    written.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def keep_signature(store: Path, sealed: Archive) -> None:
    """What was signed already and is made again, to the same bytes, stays signed."""
    places = current(store, sealed.name), versioned(store, sealed.name, sealed.version)
    for there in places:
        if beside.signature(there).is_file() and there.is_file():
            with there.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == sealed.sha256:
                    beside.carry(there, sealed.path)
                    return


def keep_previous(store: Path, fresh: Archive) -> None:
    """Before `fresh` comes into use: give what is in use its versioned name, unless it is the same.

    Raises BadInput if that name is another model's.
    """
    path = current(store, fresh.name)
    known = identity(path)
    if known is None or known[0] != fresh.name:
        return
    target = versioned(store, *known)
    if known[1] == fresh.version:
        old = verify(path, allow_ops=None)
        if old.sha256 == fresh.sha256:
            return
        target = versioned(store, fresh.name, f"{fresh.version}-{old.sha256[:12]}")
    link(path, target)


def make_current(archive: Archive, store: Path) -> Archive:
    """Bring a versioned archive into use as NAME.mar; what was in use stays beside."""
    final = current(store, archive.name)
    keep_previous(store, archive)
    link(archive.path, final)
    return replace(archive, path=final)


def refuse_other(target: Path, name: str) -> None:
    """Raise BadInput if a file of the store is the archive of another model than `name`."""
    there = identity(target)
    if there is not None and there[0] != name:
        raise BadInput(f"{target} is the archive of the model {there[0]!r}: move it elsewhere")


def link(source: Path, target: Path) -> None:
    """The same file under a second name, in one step; a copy where links are not possible.

    Raises BadInput if the name is in use by another model.
    """
    mine = identity(source)
    if mine is not None:
        refuse_other(target, mine[0])
    if target.exists() and target.samefile(source):
        beside.carry(source, target)
        return
    made = aside(target.parent, f"{target.stem}.link")
    made.unlink(missing_ok=True)
    try:
        try:
            os.link(source, made)
        except OSError:
            shutil.copyfile(source, made)
        beside.carry(source, made)
        publish(made, target)
    finally:
        with suppress(OSError):
            remove(made)


def remove(archive: Path) -> None:
    """Delete an archive and what lies beside it."""
    archive.unlink(missing_ok=True)
    beside.remove(archive)


def _is_earlier(store: Path, path: Path) -> bool:
    known = identity(path)
    if known is None:
        return False
    name, version = known
    return path.stem.startswith(f"{name}-{version}") and current(store, name).exists()
