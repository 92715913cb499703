"""What an archive consists of, and whether an unpacked one still does.

`MAR-INF/FILES.json` lists every file of an archive but itself with its SHA-256 and size. A worker's
first act is to compare its folder with the list. The module uses nothing but the standard library
and nothing of this package: the archive's entry imports it before any other.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIST = "MAR-INF/FILES.json"
MANIFEST = "MAR-INF/MANIFEST.json"
FORMAT = 1
MAX_LIST = 2**20  # bytes of the list
_SHA256 = re.compile("[0-9a-f]{64}")
_checked: set[Path] = set()


class Tampered(RuntimeError):
    """A file of an archive is not the one that was sealed.

    A RuntimeError because TorchServe reports that kind, and only that kind, as a failed load.
    """


@dataclass(frozen=True)
class File:
    """One entry: SHA-256 in hex and size in bytes."""

    sha256: str
    size: int

    def __str__(self) -> str:
        return f"{self.size} bytes, SHA-256 {self.sha256[:12] or 'not taken'}"

    @classmethod
    def of(cls, data: bytes) -> "File":
        """The entry of a file with this content."""
        return cls(hashlib.sha256(data).hexdigest(), len(data))


def write(files: Mapping[str, File]) -> bytes:
    """The list as it stands in an archive, the same bytes for the same files."""
    entries = {
        name: {"sha256": files[name].sha256, "bytes": files[name].size}
        for name in sorted(files)
        if is_listed(name)
    }
    return (json.dumps({"format": FORMAT, "files": entries}, indent=1) + "\n").encode()


def read(data: bytes) -> dict[str, File]:
    """The files that a list names. Raises Tampered unless it is what `write` makes."""
    try:
        value: Any = json.loads(data) if len(data) <= MAX_LIST else None
        files = {
            name: File(entry["sha256"], entry["bytes"]) for name, entry in value["files"].items()
        }
        whole = all(
            _SHA256.fullmatch(file.sha256) and type(file.size) is int for file in files.values()
        )
        if whole and write(files) == data:
            return files
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise Tampered(f"{LIST} is not the list that build_mar.sh writes")


def is_listed(name: str) -> bool:
    """Whether the list has to name this file of an archive."""
    return name != LIST


def compare(listed: Mapping[str, File], found: Mapping[str, File]) -> None:
    """Raise Tampered, naming the first file that differs, is missing or is extra."""
    for name in sorted(listed.keys() | {name for name in found if is_listed(name)}):
        if name not in found:
            raise Tampered(f"{name} is missing, and {LIST} names it")
        if name not in listed:
            raise Tampered(f"{name} is extra: {LIST} does not name it")
        if found[name] != listed[name]:
            raise Tampered(
                f"{name} is not the file that was sealed: {found[name]}, "
                f"where {LIST} says {listed[name]}"
            )


def check(folder: Path) -> None:
    """Compare an unpacked archive with its list, without following a link.

    Raises:
        Tampered: a file differs, is missing or is extra, or is no regular file.
    """
    folder = folder.resolve()
    try:
        listed = read(_start(folder / LIST))
        written = _written(folder)
        found = {
            name: _file(folder, name, listed.get(name))
            for name in _names(folder)
            if not written.fullmatch(name)
        }
        compare(listed, found)
    except OSError as error:
        raise Tampered(_refusal(folder, f"{error.filename}: {error.strerror}")) from error
    except Tampered as error:
        raise Tampered(_refusal(folder, str(error))) from None
    _checked.add(folder)


def _refusal(folder: Path, why: str) -> str:
    return f"nothing is served from {folder}: {why}. Register the archive again"


def confirm(folder: Path) -> None:
    """`check`, if the folder is an unpacked archive whose entry has not done so."""
    if folder.resolve() not in _checked and (folder / MANIFEST).parent.exists():
        check(folder)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_LIST + 1)


def _written(folder: Path) -> re.Pattern[str]:
    """Names of files that a worker writes into its folder.

    Its Python keeps a compiled copy of the entry, `handlers.runtimes` its verdict, and the system
    a crashed worker's memory.
    """
    try:
        entry = str(json.loads(_start(folder / MANIFEST))["model"]["handler"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Tampered(f"{MANIFEST} names no handler") from None
    compiled = rf"__pycache__/{re.escape(entry.removesuffix('.py'))}\.[^/]+"
    return re.compile(rf"{compiled}|\.?engine\.json(\.lock|\.\d+)?|core(\.\d+)?")


def _names(folder: Path, prefix: str = "") -> Iterator[str]:
    """Names below the folder; folders are followed, links are not."""
    with os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                yield from _names(folder / item.name, f"{prefix}{item.name}/")
            else:
                yield f"{prefix}{item.name}"


def _file(folder: Path, name: str, listed: File | None) -> File:
    """What the folder holds; read only if it may be what is listed."""
    path = folder / name
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Tampered(f"{name} is no regular file")
    if listed is None or listed.size != status.st_size:
        return File("", status.st_size)
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), status.st_size)
