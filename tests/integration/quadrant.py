"""A small real artifact with answers known beforehand: which quarter of a picture is bright?

The model is a TorchScript network (a fixed blur, then the mean of each quarter), the pictures
are drawn, and the right label follows from the drawing alone, whatever the handler does.
"""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from handlers import binding
from optimize.evaluation.metrics import ACCURACY
from optimize.utils.files import sha256

LABELS = ["top left", "top right", "bottom left", "bottom right"]
SIZE = 28


class Quadrant(nn.Module):
    """uint8 [N, 1, 28, 28] to float32 [N, 4]: the mean brightness of each quarter."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        with torch.no_grad():
            self.blur.weight.fill_(1 / 9)

    def forward(self, pixels: Tensor) -> Tensor:
        smooth = self.blur(pixels.float() / 255)
        return 10 * nn.functional.adaptive_avg_pool2d(smooth, 2).flatten(1)


def picture(label: int, kind: str = "PNG", side: int = SIZE, level: int = 255) -> bytes:
    """An encoded grey picture whose quarter `label` (row by row) is bright."""
    image = Image.new("L", (side, side), 10)
    half = side // 2
    left, top = (label % 2) * half, (label // 2) * half
    image.paste(level, (left, top, left + half, top + half))
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def make(folder: Path, name: str = "quadrant", passed: bool = True, **serving: int) -> Path:
    """Write the artifact to `folder`/`name` and return that path."""
    artifact = folder / name
    (artifact / "samples").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.script(Quadrant().eval()), str(artifact / "model.pt"))
    card: dict[str, Any] = {
        "name": name,
        "task": "image_classification",
        "handler": "image_classifier",
        "labels": LABELS,
        "model": {
            "file": "model.pt",
            "quantized_engine": None,
            "threads": 1,
            "batch_sizes": [1, 8],
        },
        "input": {
            "size": [SIZE, SIZE],
            "channels": 1,
            "resize": SIZE,
        },
        "serving": {
            "workers": 1,
            "batch_size": 8,
            "max_batch_delay_ms": 20,
            "response_timeout_s": 30,
            **serving,
        },
        "files": [],
    }
    write(artifact / "model.json", card)
    (artifact / "samples" / "0.png").write_bytes(picture(2))
    write(artifact / "samples" / "labels.json", {"0.png": LABELS[2]})
    write(artifact / "report.json", report(passed))
    return artifact


def report(passed: bool = True) -> dict[str, Any]:
    """A report of the agreed shape: only what deploying reads."""

    def measured(accuracy: float, count: int, latency: float) -> dict[str, Any]:
        return {
            "accuracy": accuracy,
            "samples": 4,
            "bytes": count,
            "latency_ms": {"batch1_threads1": {"p50": latency, "p95": latency}},
        }

    return {
        "recipe": "quadrant",
        "metric": ACCURACY.to_json(),
        "original": measured(1.0, 400_000, 2.0),
        "final": measured(0.9925, 10_000, 0.1),
        "gate": {"metric": "accuracy", "max_drop": 0.01, "drop": 0.0075, "passed": passed},
    }


def write(path: Path, value: Any) -> None:
    """Write `value` as JSON; a report, also that of a new card, as one of the files beside it."""
    if path.name == "report.json":
        value = bound(path.parent, value)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if path.name == "model.json" and path.with_name("report.json").exists():
        bind(path.parent)


def bind(artifact: Path) -> None:
    """Make the report one of the files that are in the folder now."""
    evidence = artifact / "report.json"
    write(evidence, json.loads(evidence.read_text(encoding="utf-8")))


def bound(artifact: Path, report: dict[str, Any]) -> dict[str, Any]:
    """The report, of the files that are in the folder now, as `optimize` would write it."""
    beside = [p for p in artifact.rglob("*") if p.is_file() and p.name != "report.json"]
    names = {p.relative_to(artifact).as_posix(): sha256(p) for p in beside}
    card = json.loads((artifact / "model.json").read_text(encoding="utf-8"))
    return binding.sealed({**report, binding.FILES: names, binding.CARD: binding.card_digest(card)})
