"""One TorchServe for the whole session, serving the quadrant model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import Running, torchserve, workplace


@pytest.fixture(scope="session")
def served() -> Iterator[Running]:
    """A running server with `quadrant` registered on one worker."""
    with workplace() as workdir:
        artifact = quadrant.make(workdir / "artifacts")
        mar.seal(artifact, workdir / "model_store")
        with torchserve(workdir) as running:
            running.management.register("quadrant.mar")
            yield running


@pytest.fixture
def store(served: Running) -> Path:
    """The model store of the session's server."""
    return served.workdir / "model_store"
