"""Runs a converter in its own process.

These libraries modify torch and each other at import (torchax makes ExecuTorch fail), print
messages, and some can end the process.
"""

from collections.abc import Callable
from pathlib import Path

from optimize.errors import ExportRefused
from optimize.export.formats import registry
from optimize.export.runner import QUIET
from optimize.export.subject import Subject
from optimize.utils import child, files, pickles
from optimize.utils.child import Child, ChildError, TimedOut

_MODULE = "optimize.export.convert"
SECONDS = 1800


def convert(name: str, subject: Subject, path: Path, precision: str) -> None:
    """Write `path` in the format `name`.

    Raises:
        ExportRefused: the converter failed; gives its message.
    """
    with files.private() as scratch:
        request = scratch / "subject.pt"
        pickles.save(subject, request)
        try:
            with Child(_MODULE, name, precision, environment=QUIET) as converter:
                converter.ask((request, path.absolute()), SECONDS)
        except TimedOut as error:
            raise ExportRefused(
                f"{subject.name}: the converter took more than {SECONDS // 60} minutes"
            ) from error
        except ChildError as error:
            raise ExportRefused(f"{subject.name} cannot be converted: {error}") from error


def _start(name: str, precision: str) -> Callable[[tuple[Path, Path]], None]:
    """The child's side."""
    form = registry.load(name)

    def answer(question: tuple[Path, Path]) -> None:
        request, path = question
        form.export(pickles.load(request), path, precision)

    return answer


if __name__ == "__main__":
    child.serve(_start)
