"""Fixtures that unit and integration tests share."""

import os
from pathlib import Path

# One thread per process, before torch is imported: on a busy machine a second one mostly waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.integration import quadrant


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A fresh copy of the quadrant artefact, to change at will."""
    return quadrant.make(tmp_path / "artifacts")
