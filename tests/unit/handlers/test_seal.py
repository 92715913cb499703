"""An archive's list of its files: written, read, and compared with a folder."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers import seal
from handlers.seal import LIST, MANIFEST, File, Tampered

ENTRY = json.dumps({"model": {"handler": "entry.py"}}).encode()
CONTENT = {MANIFEST: ENTRY, "entry.py": b"1", "model.pt": b"weights", "handlers/base.py": b"x = 1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An unpacked archive."""
    listed = seal.write({name: File.of(data) for name, data in CONTENT.items()})
    for name, data in {**CONTENT, LIST: listed}.items():
        path = tmp_path / "archive" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "archive"


def test_what_is_written_is_read_and_names_all_but_itself() -> None:
    named = {**CONTENT, LIST: b""}
    files = {name: File.of(data) for name, data in named.items()}
    backwards = dict(reversed(files.items()))
    assert seal.write(files) == seal.write(backwards), "the same bytes for the same files"
    assert seal.read(seal.write(files)) == {name: files[name] for name in CONTENT}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "files": []}',
        '{"format": 1, "files": {"a": {"sha256": "00", "bytes": 1}}}',
        '{"format": 1, "files": {"a": {"sha256": "' + "0" * 64 + '", "bytes": "1"}}}',
        '{"format": 1, "files": {"a": {"sha256": "' + "0" * 64 + '", "bytes": 1}}}',
        '{"a":' * 100_000,
    ],
)
def test_another_text_is_no_list(text: str) -> None:
    with pytest.raises(Tampered, match="is not the list that build_mar"):
        seal.read(text.encode())


def test_an_untouched_folder_passes_and_so_does_what_a_worker_writes(folder: Path) -> None:
    seal.check(folder)
    (folder / "__pycache__").mkdir()
    for name in ("__pycache__/entry.cpython-311.pyc", "engine.json", ".engine.json.lock", "core.7"):
        (folder / name).write_bytes(b"")
    seal.check(folder)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda f: (f / "model.pt").write_bytes(b"Weights"), "model.pt is not the file"),
    "cut": (lambda f: (f / "model.pt").write_bytes(b"weight"), "model.pt .* 6 bytes, .* 7 bytes"),
    "longer": (lambda f: (f / "entry.py").write_bytes(b"1\n"), "entry.py is not the file"),
    "gone": (lambda f: (f / "model.pt").unlink(), "model.pt is missing"),
    "a module": (lambda f: (f / "json.py").write_bytes(b""), "json.py is extra"),
    "in handlers": (lambda f: (f / "handlers/os.so").write_bytes(b""), "handlers/os.so is extra"),
    "deep": (lambda f: (f / "a/b").mkdir(parents=True) or (f / "a/b/c").touch(), "a/b/c is extra"),
    "compiled": (
        lambda f: (f / "__pycache__").mkdir() or (f / "__pycache__/base.cpython-311.pyc").touch(),
        "__pycache__/base.cpython-311.pyc is extra",
    ),
    "compiled handlers": (
        lambda f: (
            (f / "handlers/__pycache__").mkdir()
            or (f / "handlers/__pycache__/base.cpython-311.pyc").touch()
        ),
        "handlers/__pycache__/base",
    ),
    "a link to itself": (
        lambda f: (f / "model.pt").rename(f.parent / "m") and (f / "model.pt").symlink_to("../m"),
        "model.pt is no regular file",
    ),
    "a link to a folder": (
        lambda f: (f / "more").symlink_to(f.parent),
        "more is no regular file",
    ),
    "a pipe": (
        lambda f: (f / "model.pt").unlink() or os.mkfifo(f / "model.pt"),
        "model.pt is no regular file",
    ),
    "the manifest": (
        lambda f: (f / MANIFEST).write_bytes(ENTRY.replace(b"entry", b"other")),
        f"{MANIFEST} is not the file",
    ),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "MANIFEST.json: No such file"),
    "no JSON": (lambda f: (f / MANIFEST).write_bytes(b"{"), "names no handler"),
    "no list": (lambda f: (f / LIST).unlink(), "FILES.json: No such file"),
    "half a list": (lambda f: (f / LIST).write_bytes(b"{"), "is not the list"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_refused_and_the_file_named(folder: Path, change: str) -> None:
    make, reason = CHANGES[change]
    make(folder)
    for look in (seal.check, seal.confirm):
        with pytest.raises(Tampered, match=reason) as refused:
            look(folder)
        assert str(folder) in str(refused.value)


def test_every_byte_counts(folder: Path) -> None:
    for name in (*CONTENT, LIST):
        good = (folder / name).read_bytes()
        for at in range(len(good)):
            changed = bytearray(good)
            changed[at] ^= 1 << at % 8
            (folder / name).write_bytes(changed)
            with pytest.raises(Tampered):
                seal.check(folder)
        (folder / name).write_bytes(good)
    seal.check(folder)


def test_a_folder_that_no_archive_was_unpacked_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"anything")
    seal.confirm(tmp_path)
    (tmp_path / "MAR-INF").mkdir()
    with pytest.raises(Tampered):
        seal.confirm(tmp_path)


def test_one_look_per_process_is_enough(folder: Path) -> None:
    seal.check(folder)
    (folder / "model.pt").write_bytes(b"Weights")
    seal.confirm(folder)
    with pytest.raises(Tampered):
        seal.check(folder)
