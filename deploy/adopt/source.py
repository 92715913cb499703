"""An archive in any of the archiver's formats, unpacked into a folder of ours, within limits."""

import errno
import hashlib
import lzma
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from deploy.archive import layout
from deploy.archive.verify import refuse_special
from deploy.errors import BadInput, Unsafe
from handlers import seal

MAX_RATIO = 200  # of unpacked to packed bytes, for a file that is large unpacked
LARGE = 256 * 2**20
BLOCK = 2**20
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, OverflowError, KeyError, IndexError),
)
"""What the readers of zip and tar raise for bytes that are not as they should be."""
MANIFEST = PurePosixPath(seal.MANIFEST)
# What the archiver leaves out of its archives, and what others put beside.
LEFT_OUT = {"__pycache__", "__MACOSX", ".DS_Store"}


@dataclass(frozen=True)
class Source:
    """What was unpacked: the file's name, its format, its size in bytes and SHA-256.

    A folder has no digest.
    """

    name: str
    format: str
    bytes: int
    sha256: str | None


def unpack(path: Path, target: Path) -> Source:
    """Unpack a .mar (zip), .tar.gz or folder into `target`; the manifest ends in its MAR-INF.

    A folder is copied. Raises BadInput for what is no archive, and Unsafe for one that would write
    outside the folder, holds links or encrypted files, or unpacks to more than it may.
    """
    if path.is_dir():
        return _copy(path, target)
    refuse_special(path)
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            if begin.startswith(b"\x1f\x8b"):
                kind = "tgz"
                _tar(path, target)
            elif begin == b"PK\x03\x04":
                kind = "zip"
                _zip(file, path, target)
            else:
                raise BadInput(
                    f"{path} is neither a zip nor a gzipped tar, as torch-model-archiver makes them"
                )
            size = file.seek(0, 2)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInput(f"there is no {path}") from None
    except NotImplementedError as error:
        raise BadInput(f"{path} is packed in a way that is not read: {error}") from error
    except RuntimeError as error:  # zipfile's, for a password
        raise Unsafe(f"{path}: {str(error)[:200]}") from error
    except DAMAGE as error:
        raise BadInput(f"{path} is damaged: {str(error)[:200]}") from error
    except OSError as error:  # an offset before the file's start, a checksum of gzip
        if error.errno not in (None, errno.EINVAL):
            raise
        raise BadInput(f"{path} is damaged: {str(error)[:200]}") from error
    return Source(path.name, kind, size, digest)


def files(folder: Path) -> list[str]:
    """The names of the files of a folder, with `/`, in order; what nobody needs is left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        for name in names:
            if name not in LEFT_OUT and not name.endswith(".pyc"):
                found.append((Path(place) / name).relative_to(folder).as_posix())
    return sorted(found)


def _zip(file: IO[bytes], path: Path, target: Path) -> None:
    with zipfile.ZipFile(file) as packed:
        infos = [info for info in packed.infolist() if not info.is_dir()]
        for info in infos:
            mode = info.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise Unsafe(f"{path} holds the link {_shown(info.filename)}: it is not followed")
            if info.flag_bits & 1:
                raise Unsafe(
                    f"{path} holds {_shown(info.filename)} encrypted: it cannot be looked at"
                )
        _check([(i.filename, i.file_size, i.compress_size) for i in infos], path, target)
        for info in infos:
            with packed.open(info) as source:
                _write(source, target / _plain(info.filename, path), info.file_size, path)


def _tar(path: Path, target: Path) -> None:
    """A tar's files lie in a folder of the model's name."""
    size = path.stat().st_size
    with tarfile.open(path, "r:gz") as packed:
        members: list[tarfile.TarInfo] = []
        claimed = 0
        for member in packed:
            if member.isdir():
                continue
            if not member.isfile():
                raise Unsafe(f"{path} holds {_shown(member.name)}, which is no plain file")
            claimed += member.size
            members.append(member)
            if len(members) > layout.MAX_ENTRIES or claimed > max(LARGE, MAX_RATIO * size):
                break  # refused below; the rest need not be unpacked to be counted
        _check([(m.name, m.size, 0) for m in members], path, target, packed_bytes=size)
        tops = {PurePosixPath(member.name).parts[0] for member in members}
        for member in members:
            source = packed.extractfile(member)
            assert source is not None
            plain = PurePosixPath(_plain(member.name, path))
            inner = PurePosixPath(*plain.parts[1:]) if len(tops) == 1 and plain.parts[1:] else plain
            _write(source, target / inner, member.size, path)


def _copy(path: Path, target: Path) -> Source:
    if not (path / MANIFEST).is_file():
        raise BadInput(
            f"{path} holds no {MANIFEST}: it is no archive's folder "
            "(torch-model-archiver --archive-format no-archive makes one)"
        )
    for found in path.rglob("*"):
        if found.is_symlink():
            raise Unsafe(f"{path} holds the link {_shown(found.name)}: it is not followed")
    names = files(path)
    sizes = [(name, (path / name).stat().st_size, 0) for name in names]
    _check(sizes, path, target, packed_bytes=sum(size for _, size, _ in sizes))
    for name, size, _ in sizes:
        with (path / name).open("rb") as source:
            _write(source, target / name, size, path)
    return Source(path.name, "folder", sum(size for _, size, _ in sizes), None)


def _check(
    members: list[tuple[str, int, int]], path: Path, target: Path, packed_bytes: int | None = None
) -> None:
    """Refuse names and sizes before anything is written."""
    if len(members) > layout.MAX_ENTRIES:
        raise Unsafe(f"{path} holds {len(members)} files, {layout.MAX_ENTRIES} at most")
    seen: dict[str, str] = {}
    for name, _, _ in members:
        plain = _plain(name, path)
        key = unicodedata.normalize("NFKC", plain).casefold()
        if key in seen:
            raise Unsafe(f"{path} holds {_shown(name)} twice, or in two spellings")
        seen[key] = plain
    total = sum(size for _, size, _ in members)
    packed = sum(p for _, _, p in members) if packed_bytes is None else packed_bytes
    worst = max(((s, p, n) for n, s, p in members if p), key=lambda m: m[0] / m[1], default=None)
    if worst is not None and worst[0] > LARGE and worst[0] > MAX_RATIO * worst[1]:
        raise Unsafe(f"{path}: {_shown(worst[2])} unpacks to {worst[0]} bytes of {worst[1]}")
    if total > LARGE and total > MAX_RATIO * packed:
        raise Unsafe(f"{path} unpacks to {total} bytes of {packed}: it is not unpacked")
    free = shutil.disk_usage(target).free
    if total > free // 2:
        raise BadInput(
            f"{path} unpacks to {total} bytes, and {target} has room for {free}: "
            "free some space, or set TMPDIR to a place that has it"
        )


def _plain(name: str, path: Path) -> str:
    """A member's name as a relative path. Raises Unsafe for any other."""
    pure = PurePosixPath(name)
    parts = pure.parts
    unsafe = (
        not parts
        or pure.is_absolute()
        or ".." in parts
        or "\\" in name
        or ":" in parts[0]
        or not name.isprintable()
    )
    if unsafe:
        raise Unsafe(f"{path} holds the unsafe path {_shown(name)}: nothing of it was unpacked")
    return str(pure)


def _write(source: IO[bytes], target: Path, size: int, path: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    left = size
    with target.open("xb") as sink:
        while block := source.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                raise Unsafe(f"{path}: {_shown(target.name)} is longer than it says")
            sink.write(block)
    if left:
        raise BadInput(f"{path} is damaged: {_shown(target.name)} ends early")


def _shown(name: str) -> str:
    return repr(name[:120])
