"""Runs a converter in a process of its own.

These libraries change torch and each other when they are imported (torchax alone makes
ExecuTorch fail), write to the screen, and some can end the process.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from optimize.errors import ExportRefused
from optimize.export.subject import Subject
from optimize.utils import pickles

SECONDS = 1800


def convert(name: str, subject: Subject, path: Path, precision: str) -> None:
    """Write `path` in the format `name`.

    Raises:
        ExportRefused: the converter failed; says with what.
    """
    from optimize.export.runner import QUIET

    with tempfile.TemporaryDirectory() as scratch:
        sent, told = Path(scratch) / "subject.pt", Path(scratch) / "error.txt"
        pickles.save(subject, sent)
        command = [sys.executable, "-W", "ignore", "-m", "optimize.export.convert"]
        try:
            ran = subprocess.run(
                [*command, name, precision, str(sent), str(path.absolute()), str(told)],
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=SECONDS,
                cwd=Path(__file__).resolve().parents[2],
                env={**os.environ, **QUIET},
            )
        except subprocess.TimeoutExpired as error:
            raise ExportRefused(
                f"{subject.name}: the converter took more than {SECONDS // 60} minutes"
            ) from error
        if ran.returncode != 0:
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            reason = told.read_text(encoding="utf-8") if told.is_file() else last
            raise ExportRefused(f"{subject.name} cannot be converted: {reason}")


def _main(name: str, precision: str, sent: str, path: str, told: str) -> int:
    """The child's side."""
    from optimize.export.formats import base

    try:
        base.load(name).export(pickles.load(Path(sent)), Path(path), precision)
    except Exception as error:  # a foreign converter: anything can come out
        causes = [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
        if error.__cause__ is not None:
            cause = error.__cause__
            causes.append(f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}")
        Path(told).write_text("; from ".join(causes), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
