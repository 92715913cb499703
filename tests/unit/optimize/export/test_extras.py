"""What `make extras-FORMAT` installs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optimize.export import extras
from optimize.export.formats import registry


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_format_has_pinned_packages(name: str) -> None:
    found = extras.packages(name)
    assert found
    assert all("==" in requirement for requirement in found)


def test_packages_are_printed_on_one_line() -> None:
    ran = _run("onnx")
    assert ran.returncode == 0
    assert ran.stdout.splitlines() == [" ".join(extras.packages("onnx"))]


@pytest.mark.parametrize("arguments", [[], ["onxx"]])
def test_another_format_is_refused(arguments: list[str]) -> None:
    ran = _run(*arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "error: no format" in ran.stderr
    assert "there are onnx, tflite" in ran.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "optimize.export.extras", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(extras.__file__).parents[2])},
    )
