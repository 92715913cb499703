"""A real embedding artifact without training: two random layers of BERT in int8."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from optimize.models.architectures.bert import BertEmbedder, BertShape
from optimize.quantization.text import quantize
from optimize.utils import torchscript
from tests.integration import quadrant
from tests.unit.handlers.text_artifact import TOKENIZER, encoder_folder

WIDTH, MAX_LENGTH = 64, 32


def model() -> BertEmbedder:
    """A small float model, the same every time."""
    torch.manual_seed(0)
    shape = BertShape(30522, WIDTH, 2, 4, 128, max_position_embeddings=MAX_LENGTH)
    made = BertEmbedder(shape).eval()
    with torch.no_grad():  # embeddings that differ visibly from text to text
        made.embeddings.word.weight *= 50
    return made


def make(folder: Path, **changes: Any) -> Path:
    """Write model.pt, model.json and tokenizer.json; `changes` go into card.input."""
    source = encoder_folder()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / TOKENIZER, folder / TOKENIZER)
    kept = torch.backends.quantized.engine
    windows = torch.randint(1000, 20000, (16, 24), dtype=torch.int32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            quantized = quantize(model(), [windows], MAX_LENGTH)
            torchscript.script(quantized, windows[:1]).save(str(folder / "model.pt"))
    finally:
        torch.backends.quantized.engine = kept
    card = {
        "name": "vectors",
        "task": "text_embedding",
        "handler": "text_embedder",
        "labels": [],
        "model": {
            "file": "model.pt",
            "quantized_engine": quantized.engine,
            "threads": 1,
            "batch_sizes": [1, 2],
        },
        "input": {"max_length": MAX_LENGTH, "max_bytes": 100_000} | changes,
        "serving": {
            "workers": 1,
            "batch_size": 4,
            "max_batch_delay_ms": 1,
            "response_timeout_s": 60,
        },
        "files": [TOKENIZER],
    }
    (folder / "model.json").write_text(json.dumps(card))
    report = {"recipe": "vectors", "gate": {"passed": True}}
    quadrant.write(folder / "report.json", report)
    return folder
