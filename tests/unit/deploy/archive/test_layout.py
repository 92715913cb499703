"""Archives that mean harm: refused, in little memory, with a short sentence."""

import io
import zipfile
from pathlib import Path

import pytest

from deploy.archive import layout, mar
from deploy.archive.verify import identity, verify
from deploy.errors import BadInput
from handlers.seal import MANIFEST
from tests.integration import quadrant
from tests.unit.deploy.archive import hostile


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return mar.seal(quadrant.make(folder / "artifacts"), folder / "store").path


def test_hostile_archives_are_refused_in_little_memory(good: Path, tmp_path: Path) -> None:
    assert hostile.write_all(tmp_path, good, 100) >= 100
    took = hostile.looked_at(tmp_path, good)
    assert took["megabytes"] < 50


def test_the_comparison_knows_what_pack_makes(tmp_path: Path) -> None:
    """Names beyond ASCII, empty entries, and an archive without any."""
    for number, entries in enumerate(
        ({}, {"a": b""}, {"ä/ö.txt": b"x" * 3_000_000, MANIFEST: b"{}", "b": b"y"})
    ):
        path = tmp_path / f"{number}.zip"
        path.write_bytes(layout.zipped(entries))
        with path.open("rb") as file:
            infos = layout.read(file, path)
            layout.compare(file, infos, path)
            for info in infos:
                with layout.content(file, info) as part:
                    assert part.read() == entries[info.filename]
                    part.seek(-1, 2)
                    assert part.read() == entries[info.filename][-1:]


def test_the_end_is_what_zipfile_writes_for_more_than_4_gib() -> None:
    """As read back by zipfile, from a file that is not there but for its list."""
    info = zipfile.ZipInfo("model.pt", layout.DATE)
    info.CRC, info.header_offset = 1, 3 * 2**32
    info.file_size = info.compress_size = 5 * 2**32
    start = 8 * 2**32 + 1
    text = layout._ending([info], start)

    class Far(io.BytesIO):
        def seek(self, offset: int, whence: int = 0) -> int:
            return super().seek(offset - start if whence == 0 else offset, whence) + start

        def tell(self) -> int:
            return super().tell() + start

    with zipfile.ZipFile(Far(text)) as packed:
        (found,) = packed.infolist()
    assert (found.file_size, found.header_offset) == (5 * 2**32, 3 * 2**32)


def test_what_an_archive_is_called(good: Path, tmp_path: Path) -> None:
    assert identity(good) == ("quadrant", verify(good).version)
    assert identity(tmp_path / "none.mar") is None
    (tmp_path / "x.mar").write_bytes(b"x")
    assert identity(tmp_path / "x.mar") is None


def test_a_tgz_is_told_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "model.mar"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(40))
    with pytest.raises(BadInput, match=r"--archive-format tgz.*zip"):
        verify(path)
