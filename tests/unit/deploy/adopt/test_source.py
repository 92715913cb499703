"""Archives that would write elsewhere, or more than they say: nothing lands outside the folder."""

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.adopt import source
from deploy.archive.verify import verify
from deploy.errors import BadInput, Unsafe

NAMES = ["../x", "a/../../x", "/x", "a\\..\\x", "C:x", "a\nb", "..", "./../x"]


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries:
            packed.writestr(name, data, zipfile.ZIP_DEFLATED)
    return path


def tarred(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for member in members:
            packed.addfile(member, io.BytesIO(bytes(member.size)) if member.isfile() else None)
    return path


def member(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 1, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size if kind == tarfile.REGTYPE else 0, link
    return info


def refused(path: Path, tmp_path: Path, words: str) -> None:
    target = tmp_path / "in" / "side"
    target.mkdir(parents=True)
    with pytest.raises(Unsafe, match=words):
        source.unpack(path, target)
    assert [p for p in tmp_path.rglob("x") if p.is_file()] == []


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_a_zip(tmp_path: Path, name: str) -> None:
    refused(zipped(tmp_path / "a.mar", (name, b"x")), tmp_path, "unsafe path")


@pytest.mark.parametrize("name", NAMES)
def test_paths_in_a_tar(tmp_path: Path, name: str) -> None:
    refused(tarred(tmp_path / "a.tar.gz", member(name)), tmp_path, "unsafe path")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_what_is_no_file_in_a_tar(tmp_path: Path, kind: bytes) -> None:
    made = tarred(tmp_path / "a.tar.gz", member("m/x", kind, link="/etc/passwd"))
    refused(made, tmp_path, "no plain file")


def test_a_link_in_a_zip_and_in_a_folder(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("x")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    refused(zipped(tmp_path / "a.mar", (info, b"/etc/passwd")), tmp_path, "the link 'x'")
    folder = tmp_path / "folder"
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "MAR-INF" / "MANIFEST.json").write_text("{}")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(Unsafe, match="the link 'link'"):
        source.unpack(folder, tmp_path / "in" / "side")


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("\u00e9", "e\u0301"), ("a", "./a")])
def test_two_spellings_of_a_name(tmp_path: Path, one: str, other: str) -> None:
    refused(zipped(tmp_path / "a.mar", (one, b"1"), (other, b"2")), tmp_path, "twice")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LARGE", 2**20)
    refused(zipped(tmp_path / "a.mar", ("zeros", bytes(2**22))), tmp_path, "unpacks to 4194304")
    made = tarred(tmp_path / "a.tar.gz", member("m/zeros", size=2**22))
    with pytest.raises(Unsafe, match="unpacks to 4194304"):
        source.unpack(made, tmp_path / "in" / "side")


def test_too_many_files(tmp_path: Path) -> None:
    many = zipped(tmp_path / "a.mar", *((f"f{i}", b"") for i in range(4001)))
    refused(many, tmp_path, "4001 files, 4000 at most")


def test_encrypted(tmp_path: Path) -> None:
    made = zipped(tmp_path / "a.mar", ("x", b"1"))
    data = bytearray(made.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    made.write_bytes(data)
    refused(made, tmp_path, "encrypted")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    pipe = tmp_path / "a.mar"
    os.mkfifo(pipe)
    for read in (lambda: source.unpack(pipe, tmp_path / "to"), lambda: verify(pipe)):
        with pytest.raises(BadInput, match="a pipe or a device"):
            read()
