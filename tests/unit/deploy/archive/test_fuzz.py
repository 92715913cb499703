"""Archives and folders changed at random: found, with one sentence, and nothing else happens.

make fuzz: 100,000 of them.
"""

import os
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploy.archive import layout, mar
from deploy.archive.verify import identity, verify
from deploy.errors import BadInput
from deploy.service.bundle import unpack
from handlers import seal
from tests.integration import quadrant

RUNS = int(os.environ.get("FUZZ", "400"))
FUZZED = settings(
    max_examples=RUNS // 2,
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
BAD_NAMES = ["../x", "/x", "..\\x", "C:\\x"]
NAMES = ["MODEL.PT", "model.pt", "e\u0301", "\u00e9", "a/b", "json.py"]

places = st.floats(0, 1, exclude_max=True)
snippets = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.sampled_from([b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\xff" * 8]),
    st.integers(0, 2**64 - 1).map(lambda n: struct.pack("<Q", n)),
)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), places, st.integers(0, 7)),
        st.tuples(st.just("over"), places, snippets),
        st.tuples(st.just("insert"), places, snippets),
        st.tuples(st.just("cut"), places, st.integers(1, 3000)),
        st.tuples(st.just("repeat"), places, st.integers(1, 3000)),
        st.tuples(st.just("head"), places, snippets),
        st.tuples(st.just("end"), st.integers(1, 200), st.just(0)),
        st.tuples(st.just("entry"), st.sampled_from(BAD_NAMES + NAMES), st.binary(max_size=20)),
    ),
    min_size=1,
    max_size=4,
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), places, places),
        st.tuples(st.just("cut"), places, places),
        st.tuples(st.just("gone"), places, st.just(0)),
        st.tuples(st.just("link"), places, st.sampled_from(["nowhere", "../small.mar", "."])),
        st.tuples(st.just("more"), st.sampled_from(NAMES), st.binary(max_size=20)),
    ),
    min_size=1,
    max_size=3,
)


@pytest.fixture(scope="module")
def counted() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    print("\n" + ", ".join(f"{count:,} {what}" for what, count in sorted(counts.items())))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed archive with few and small handlers, so that most of it is structure."""
    folder = tmp_path_factory.mktemp("fuzz")
    sealed = mar.seal(quadrant.make(folder / "artifacts"), folder / "store").path
    with zipfile.ZipFile(sealed) as packed:
        entries = {name: packed.read(name) for name in packed.namelist()}
    for name in [name for name in entries if name.startswith("handlers/")]:
        if name not in ("handlers/__init__.py", "handlers/seal.py"):
            del entries[name]
    small = folder / "small.mar"
    small.write_bytes(layout.pack(entries))
    verify(small)
    return small


def changed(data: bytes, steps: list[Any]) -> bytes:
    """The archive after some changes."""
    made = bytearray(data)
    heads = [at for at in range(len(data)) if data.startswith(b"PK", at)]
    for kind, where, what in steps:
        at = int(where * len(made)) if isinstance(where, float) else 0
        if kind == "flip" and made:
            made[at] ^= 1 << what
        elif kind == "over":
            made[at : at + len(what)] = what
        elif kind == "head":
            at = heads[int(where * len(heads))] + 4
            made[at : at + len(what)] = what
        elif kind == "insert":
            made[at:at] = what
        elif kind == "cut":
            del made[at : at + what]
        elif kind == "repeat":
            made[at:at] = made[at : at + what]
        elif kind == "end":
            del made[-where:]
        elif kind == "entry":
            name = where.encode()
            head = struct.pack(
                "<HHHHHLLLHH", 20, 0, 0, 0, 33, 0, len(what), len(what), len(name), 0
            )
            end = made.rfind(b"PK\x01\x02")
            made[end:end] = b"PK\x03\x04" + head + name + what
    return bytes(made)


@FUZZED
@given(steps=changes)
def test_a_changed_archive_is_refused_with_a_sentence(
    good: Path, counted: Counter[str], steps: list[Any]
) -> None:
    data = good.read_bytes()
    made = changed(data, steps)
    path = good.with_name("changed.mar")
    path.write_bytes(made)
    counted["archives looked at"] += 1
    if made == data:
        verify(path)
        return
    before = sorted(good.parent.iterdir())
    with pytest.raises(BadInput) as refused:
        verify(path)
    assert 0 < len(str(refused.value)) < 2500
    identity(path)
    if counted["archives looked at"] % 50 == 0:
        with pytest.raises(BadInput):
            unpack(path)
        counted["of them unpacked for the service, in vain"] += 1
    assert sorted(good.parent.iterdir()) == before


@FUZZED
@given(steps=steps)
def test_a_changed_folder_is_refused_with_a_sentence(
    good: Path, counted: Counter[str], steps: list[Any]
) -> None:
    folder = good.with_name("unpacked")
    names = _restored(good, folder)
    for kind, where, what in steps:
        name = where if kind == "more" else names[int(where * len(names))]
        path = folder / name
        if kind == "more":
            if path.is_symlink() or path.parent.is_symlink() or path.exists():
                continue  # nothing is ever written through a link
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(what)
        elif path.is_symlink() or not path.exists() or not path.stat().st_size:
            continue
        elif kind == "flip":
            data = bytearray(path.read_bytes())
            data[int(what * len(data))] ^= 1
            path.write_bytes(data)
        elif kind == "cut":
            path.write_bytes(path.read_bytes()[: int(what * path.stat().st_size)])
        else:
            path.unlink()
            if kind == "link":
                path.symlink_to(what)
    counted["folders looked at"] += 1
    if _whole(good, folder):  # flipped twice, say
        seal.check(folder)
        return
    with pytest.raises(seal.Tampered) as refused:
        seal.check(folder)
    assert str(refused.value).startswith(f"nothing is served from {folder}: ")


_contents: dict[str, bytes] = {}


def _restored(good: Path, folder: Path) -> list[str]:
    """Unpack the archive again, but for what is as it was; its names."""
    if not _contents:
        with zipfile.ZipFile(good) as packed:
            _contents.update({name: packed.read(name) for name in packed.namelist()})
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or (path.is_file() and name not in _contents):
            path.unlink()
    for name, data in _contents.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return list(_contents)


def _whole(good: Path, folder: Path) -> bool:
    found = {
        path.relative_to(folder).as_posix(): None if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }
    return found == _contents
