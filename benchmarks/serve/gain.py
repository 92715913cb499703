"""What a user gains in all: the float32 original in another server, our archive in TorchServe."""

import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.serve.kinds import Kind
from optimize.errors import OptimizeError
from optimize.pipeline.finished import Finished
from optimize.utils import torchscript

_EXAMPLES = {
    "images": lambda size: torch.zeros(1, size.get("channels", 3), *size["size"]).byte(),
    "text": lambda _: torch.randint(1000, 2000, (1, 64), dtype=torch.int32),
}


def original(kind: Kind, artifact: Path, folder: Path) -> bool:
    """Put the uncompressed model into the unpacked archive `folder`, for the same handler.

    As TorchScript, frozen, which is faster than eager. False where the artifact keeps none that
    the handler can run: speech is served from one file of our own making.
    """
    path = folder / "model.json"
    card = json.loads(path.read_text())
    stages = sorted((artifact / "stages").glob("[0-9][0-9]-*"))
    if kind.name not in _EXAMPLES or not stages:
        return False
    try:
        model: Any = Finished(stages[0]).load_state(None).original
    except (OSError, ValueError, OptimizeError):
        return False
    example = _EXAMPLES[kind.name](card["input"])
    torchscript.save(torchscript.script(model.eval(), example), folder / "model.pt")
    card["model"] |= {"file": "model.pt", "quantized_engine": None}
    card["model"].pop("alternatives", None)
    path.write_text(json.dumps(card))
    return True


def ratios(entry: dict[str, Any]) -> dict[str, float]:
    """Ours over the original's, by number of clients."""
    return {
        clients: round(both["ours"]["rps"] / both["original"]["rps"], 2)
        for clients, both in entry["clients"].items()
        if both["original"]["rps"]
    }
