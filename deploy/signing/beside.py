"""The files that travel beside an archive: its signature, and its signed statement."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

SIGNATURE = ".sig"
STATEMENT = ".intoto.json"
_SUFFIXES = (SIGNATURE, STATEMENT)


def signature(archive: Path) -> Path:
    """Where an archive's signature lies: NAME.mar.sig, as OpenSSF Model Signing names it."""
    return archive.with_name(archive.name + SIGNATURE)


def statement(archive: Path) -> Path:
    """Where an archive's signed statement lies: NAME.mar.intoto.json, an envelope of DSSE."""
    return archive.with_name(archive.name + STATEMENT)


def carry(source: Path, target: Path) -> None:
    """Give the archive `target` what lies beside `source`, and nothing else; each in one step."""
    for suffix in _SUFFIXES:
        there, here = (path.with_name(path.name + suffix) for path in (source, target))
        if not there.is_file():
            here.unlink(missing_ok=True)
        elif not (here.exists() and here.samefile(there)):
            aside = here.with_name(f".{here.name}.{os.getpid()}")
            aside.unlink(missing_ok=True)
            try:
                shutil.copyfile(there, aside)
                aside.replace(here)
            finally:
                with suppress(OSError):
                    aside.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file beside an archive, in one step that outlives a loss of power."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def remove(archive: Path) -> None:
    """Delete what lies beside an archive."""
    for suffix in _SUFFIXES:
        archive.with_name(archive.name + suffix).unlink(missing_ok=True)
