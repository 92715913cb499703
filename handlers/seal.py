"""What an archive consists of, and whether an unpacked one still does.

`MAR-INF/FILES.json` lists every file of an archive with its SHA-256 and size, but itself and
SIGNATURES, which are made from it. A worker's first act is to compare its folder with the list. The
module uses nothing but the standard library and nothing of this package: the archive's entry
imports it before any other.
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
SIGNATURES = ("MAR-INF/model.sig", "MAR-INF/evidence.intoto.jsonl")
"""Entries that sign the list: they may be in an archive or not."""
FORMAT = 1
MAX_LIST = 2**20  # bytes of the list
WRITTEN = r"__pycache__/{entry}\.[^/]+|\.?engine\.json(\.lock|\.\d+)?"
"""What a worker's Python and `handlers.runtimes` write there."""
_SHA256 = re.compile("[0-9a-f]{64}")


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
    raise Tampered(f"{LIST} is not the list that build_mar.sh writes: build the archive again")


def is_listed(name: str) -> bool:
    """Whether the list has to name this file of an archive."""
    return name != LIST and name not in SIGNATURES


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


def check(folder: Path, entry: str = "") -> None:
    """Compare an unpacked archive with its list, without following a link.

    Args:
        folder: where it was unpacked.
        entry: the module that TorchServe imports, of which Python keeps a compiled copy.

    Raises:
        Tampered: a file differs, is missing or is extra, or is no regular file.
    """
    try:
        with (folder / LIST).open("rb") as file:
            listed = read(file.read(MAX_LIST + 1))
    except OSError as error:
        raise Tampered(f"{folder / LIST} cannot be read: {error.strerror}") from error
    written = re.compile(WRITTEN.format(entry=re.escape(entry)))
    try:
        found = {
            name: _file(path, listed.get(name))
            for name, path in _files(folder)
            if not written.fullmatch(name)
        }
    except OSError as error:
        raise Tampered(f"{error.filename} cannot be read: {error.strerror}") from error
    compare(listed, found)


def _files(folder: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Names below the folder and their paths; folders are followed, links are not."""
    with os.scandir(folder) as found:
        for item in found:
            if item.is_dir(follow_symlinks=False):
                yield from _files(Path(item.path), f"{prefix}{item.name}/")
            else:
                yield f"{prefix}{item.name}", Path(item.path)


def _file(path: Path, listed: File | None) -> File:
    """What the folder holds; read only if it may be what is listed."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise Tampered(f"{path.name} is no regular file")
    if listed is None or listed.size != status.st_size:
        return File("", status.st_size)
    with path.open("rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), status.st_size)
