"""The module that TorchServe loads: nothing of a changed archive is imported by it."""

import os
import py_compile
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.archive import mar
from tests.integration import quadrant

IMPORT = """
import sys
sys.path.insert(0, {folder!r})
import image_classifier
print(image_classifier.ImageClassifier.__mro__[1].__module__)
"""
EVIL = "print('evil ran')\n"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entry")
    return mar.seal(quadrant.make(folder / "artifacts"), folder / "store").path


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    """An unpacked archive."""
    with zipfile.ZipFile(sealed) as packed:
        packed.extractall(tmp_path / "archive")
    return tmp_path / "archive"


def imported(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import the entry as a worker does."""
    return subprocess.run(
        [sys.executable, "-c", IMPORT.format(folder=str(folder))],
        env={"PATH": os.environ["PATH"]},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_handler_is_the_archives_and_no_compiled_copy_is_left(folder: Path) -> None:
    for _ in range(2):  # the second one finds the entry's compiled copy
        done = imported(folder)
        assert (done.returncode, done.stdout) == (0, "handlers.image_classifier\n"), done.stderr
    assert [path.parent.name for path in folder.rglob("*.pyc")] == ["__pycache__"]
    assert not (folder / "handlers" / "__pycache__").exists()


def write(folder: Path, name: str, text: str) -> None:
    """Put a file where an archive was unpacked to."""
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def planted(folder: Path, name: str) -> None:
    """A compiled copy that Python takes for that of the module."""
    source = folder / "handlers" / f"{name}.py"
    text = source.read_text()
    status = source.stat()
    source.write_text(EVIL + "\n" * (status.st_size - len(EVIL)))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    py_compile.compile(str(source))
    source.write_text(text)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a handler": (lambda f: write(f, "handlers/base.py", EVIL), "handlers/base.py is not the file"),
    "what compares": (lambda f: write(f, "handlers/seal.py", EVIL), "handlers/seal.py is not the"),
    "the package": (
        lambda f: write(f, "handlers/__init__.py", EVIL),
        "__init__.py is not the",
    ),
    "a module more": (lambda f: write(f, "torch.py", EVIL), "torch.py is extra"),
    "a package more": (lambda f: write(f, "numpy/__init__.py", EVIL), "numpy/__init__.py is extra"),
    "a compiled handler": (lambda f: planted(f, "base"), "handlers/__pycache__ is extra"),
    "a compiled comparison": (lambda f: planted(f, "seal"), "handlers/__pycache__ is extra"),
    "the model": (lambda f: write(f, "model.pt", "x"), "model.pt is not the file"),
    "the card": (lambda f: write(f, "model.json", "{}"), "model.json is not the file"),
    "the evidence": (lambda f: write(f, "report.json", "{}"), "report.json is not the file"),
    "the list": (lambda f: (f / "MAR-INF/FILES.json").unlink(), "FILES.json: No such file"),
    "all that says archive": (
        lambda f: [path.unlink() for path in (f / "MAR-INF").iterdir()],
        "FILES.json: No such file",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_of_a_changed_archive_is_imported(folder: Path, change: str) -> None:
    make, reason = CHANGES[change]
    make(folder)
    done = imported(folder)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"nothing is served from {folder}" in last and reason in last
    assert "evil" not in done.stdout


def test_a_planted_copy_would_have_run(folder: Path) -> None:
    planted(folder, "base")
    done = subprocess.run(
        [sys.executable, "-c", "import handlers.base"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "evil ran" in done.stdout
