"""Fixtures of the handler tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from handlers.image_classifier import ImageClassifier
from tests.unit.handlers import archive


@pytest.fixture(autouse=True)
def _restore_torch() -> Iterator[None]:
    """Handlers set process-wide PyTorch settings: give them back."""
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive folder of the mean-colour classifier; not to be changed."""
    return archive.make(tmp_path_factory.mktemp("colours"))


@pytest.fixture(params=["true", "false"], ids=["decoded", "raw"])
def worker(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, colours: Path
) -> archive.Worker:
    """The classifier in TorchServe's service, which decodes JSON and text itself or does not."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", request.param)
    return archive.Worker(ImageClassifier(), colours)
