"""A model file loaded as a serving worker loads it, with the handlers' loaders and settings."""

from pathlib import Path

from handlers.backend import Predict, load_model
from handlers.card import Card


def served(path: Path, engine: str | None = None, threads: int = 1) -> Predict:
    """The file as a function from tensors to a tensor, or a tuple of several.

    Args:
        path: TorchScript's `.pt`, `.onnx`, OpenVINO's `.xml` or AOTInductor's `.pt2`.
        engine: `torch.backends.quantized.engine` of a quantized `.pt`.
        threads: intra-op threads.

    Raises:
        handlers.errors.ModelError: it does not load.
    """
    model = {"file": path.name, "quantized_engine": engine, "threads": threads}
    return load_model(path.parent, Card(path.stem, task="", labels=[], model=model, input={}))
