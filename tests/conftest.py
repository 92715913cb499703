"""Fixtures that unit and integration tests share."""

from pathlib import Path

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
