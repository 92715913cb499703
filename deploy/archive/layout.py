"""The one layout of our archives: a zip that every reader sees alike, made and compared.

Entries are stored, in a fixed order with fixed dates and permissions, one after another without a
gap. `pack` makes it; `read` and `compare` check a file from anywhere in blocks, so that neither
what it claims nor what it holds is taken into memory.
"""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from typing import IO, Any

from deploy.errors import BadInput, NotAsReported
from handlers.seal import LIST, MANIFEST, File, is_listed, write

DATE = (1980, 1, 1, 0, 0, 0)
MODE = 0o100644 << 16
MAX_ENTRIES = 4_000
MAX_DIRECTORY = 2**20  # bytes
BLOCK = 2**20
_END = 22  # bytes of the record at the end, which our layout gives no comment
_LOCATOR, _END64 = 20, 56


def pack(entries: dict[str, bytes]) -> bytes:
    """The bytes of the archive that holds these entries, and the list of them in its place."""
    listed = {name: File.of(data) for name, data in entries.items() if is_listed(name)}
    return zipped({**entries, LIST: write(listed)})


def zipped(entries: dict[str, bytes]) -> bytes:
    """The bytes of a zip of these entries in our layout."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as sink:
        for name in ordered(entries):
            sink.writestr(_info(name), entries[name], zipfile.ZIP_STORED)
    return buffer.getvalue()


def ordered(names: Iterable[str]) -> list[str]:
    """The names in our order: the manifest first, so that it is found without a scan."""
    return sorted(names, key=lambda name: (name != MANIFEST, name))


def read(file: IO[bytes], path: Any) -> list[zipfile.ZipInfo]:
    """The entries of an archive, its sizes checked before anything is read.

    Raises BadInput, and zipfile.BadZipFile for what is no zip.
    """
    size = file.seek(0, 2)
    count, length = _counts(file, size)
    if count > MAX_ENTRIES or length > MAX_DIRECTORY:
        raise BadInput(
            f"{path} lists {count} entries in {length} bytes, {MAX_ENTRIES} in {MAX_DIRECTORY} "
            "at most: do not serve it"
        )
    with zipfile.ZipFile(file) as packed:
        infos = packed.infolist()
    claimed = sum(info.file_size for info in infos)
    if claimed > size:
        raise BadInput(f"{path} claims {claimed} bytes of content in {size}: do not serve it")
    return infos


def compare(
    file: IO[bytes], infos: list[zipfile.ZipInfo], path: Any
) -> tuple[str, dict[str, File]]:
    """Check that the file is what `pack` makes of its entries; its SHA-256, and its entries.

    Raises NotAsReported for an entry whose bytes are damaged, BadInput for another layout.
    """
    total = hashlib.sha256()
    other = BadInput(f"{path} is not laid out as build_mar.sh does it: build it again")

    def expect(data: bytes) -> None:
        found = file.read(len(data))
        total.update(found)
        if found != data:
            raise other

    if [info.filename for info in infos] != ordered({info.filename for info in infos}):
        raise other
    file.seek(0)
    fresh, at = [], 0
    found: dict[str, File] = {}
    for info in infos:
        own = _info(info.filename)
        own.header_offset = at
        header = _header(own, info)
        if info.header_offset != at:
            raise other
        expect(header)
        crc, sha256 = _checksums(file, info.file_size, total)
        if crc != info.CRC:
            raise NotAsReported(f"{path} is damaged at {info.filename[:200]}: build it again")
        found[info.filename] = File(sha256, info.file_size)
        at += len(header) + info.file_size
        fresh.append(own)
    expect(_ending(fresh, at))
    if file.read(1):
        raise other
    return total.hexdigest(), found


class Window(io.RawIOBase):
    """A part of an open file as a file of its own, to read."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """As io.IOBase.seek."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As io.RawIOBase.readinto."""
        self._file.seek(self._start + self._at)
        data = self._file.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def content(file: IO[bytes], info: zipfile.ZipInfo) -> IO[bytes]:
    """A stored entry of a file in our layout, open for reading."""
    start = info.header_offset + len(_header(_info(info.filename), info))
    return io.BufferedReader(Window(file, start, info.file_size))


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, DATE)
    info.create_system = 3
    info.external_attr = MODE
    return info


def _header(own: zipfile.ZipInfo, info: zipfile.ZipInfo) -> bytes:
    """The bytes before an entry's content, as zipfile writes them for its size and checksum."""
    own.CRC = info.CRC
    own.file_size = own.compress_size = info.file_size
    return own.FileHeader(info.file_size * 1.05 > zipfile.ZIP64_LIMIT)


def _counts(file: IO[bytes], size: int) -> tuple[int, int]:
    """How many entries the end of the file claims, and how many bytes their list takes."""
    file.seek(max(0, size - _END))
    end = file.read(_END)
    if len(end) < _END or not end.startswith(b"PK\x05\x06") or end[20:22] != b"\0\0":
        raise zipfile.BadZipFile("its end is missing, or followed by something else")
    count, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if size < _END + _LOCATOR + _END64:
        return count, length
    file.seek(size - _END - _LOCATOR - _END64)
    record = file.read(_END64 + _LOCATOR)
    if record[_END64:].startswith(b"PK\x06\x07"):  # zip64: zipfile believes this one
        count = int.from_bytes(record[32:40], "little")
        length = int.from_bytes(record[40:48], "little")
    return count, length


def _checksums(file: IO[bytes], size: int, total: Any) -> tuple[int, str]:
    """CRC and SHA-256 of the next `size` bytes, which `total` takes too."""
    crc, own = 0, hashlib.sha256()
    while size:
        block = file.read(min(size, BLOCK))
        if not block:
            return -1, ""
        crc = zlib.crc32(block, crc)
        own.update(block)
        total.update(block)
        size -= len(block)
    return crc, own.hexdigest()


class _End:
    """Takes what zipfile writes after the last entry, which lies at `start`."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.parts: list[bytes] = []

    def tell(self) -> int:
        return self.start + sum(map(len, self.parts))

    def seek(self, offset: int, whence: int = 0) -> int:
        return offset

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass


def _ending(infos: list[zipfile.ZipInfo], start: int) -> bytes:
    """The list of entries and the end of the archive, as zipfile writes them."""
    sink: Any = _End(start)
    with zipfile.ZipFile(sink, "w") as packed:
        packed.filelist = infos
        packed.comment = b""  # has it write the end although it wrote no entry
    return b"".join(sink.parts)
