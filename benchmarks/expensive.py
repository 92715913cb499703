"""Time and memory of the dearest requests within the limits, per handler: `make bench-expensive`.

    python -m benchmarks.expensive ARTIFACT...

Each request is asked alone, of a handler in this process that has served nothing dear before.
Writes benchmarks/results/expensive.json.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile

from handlers import memory
from handlers.base import BaseHandler
from handlers.image_classifier import ImageClassifier
from handlers.speech_recognizer import SpeechRecognizer
from handlers.text_classifier import TextClassifier
from tests.unit.expensive import Expensive, expensive

RESULT = Path(__file__).parent / "results" / "expensive.json"
HANDLERS: dict[str, type[BaseHandler]] = {
    "image_classification": ImageClassifier,
    "text_classification": TextClassifier,
    "speech_recognition": SpeechRecognizer,
}
TEXT = "text/plain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("artifacts", nargs="+", type=Path)
    options = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    for folder in options.artifacts:
        results[folder.name] = measured(folder)
        RESULT.write_text(json.dumps(results, indent=2) + "\n")


def measured(folder: Path) -> list[dict[str, Any]]:
    """Rows of one artifact, each printed as it is known, the dearest first."""
    task = json.loads((folder / "model.json").read_text())["task"]
    handler = HANDLERS[task]()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))
    print(f"{folder.name}: {handler.budget}, {memory.resident() >> 20} MB", flush=True)
    rows = []
    for case in requests(task, handler):
        rows.append(asked(handler, case))
        print(json.dumps(rows[-1]), flush=True)
    return sorted(rows, key=lambda row: -float(row["processor_seconds"]))


def requests(task: str, handler: BaseHandler) -> Iterator[Expensive]:
    """Bodies that cost as much as their task's limits allow."""
    if task == "image_classification":
        yield from expensive(4)
    elif task == "text_classification":
        yield from texts(handler.max_bytes())
    else:
        yield from recordings()


def texts(limit: int) -> Iterator[Expensive]:
    """Long, many and odd texts, and one to be explained."""
    words = "an unforgettable performance, quietly devastating; "
    many = json.dumps({"text": [words * 40] * 64}).encode()
    yield Expensive("64 texts", many, "application/json", 200)
    yield Expensive("64 windows", (words * 800).encode(), TEXT, 200)
    yield Expensive("spaces", b" " * (limit - 1) + b"a", TEXT, 200)
    yield Expensive("one word", b"a" * limit, TEXT, 200)
    yield Expensive("punctuation", b"!" * limit, TEXT, 413)
    yield Expensive("over the limit", b"!" * (16 << 20), TEXT, 413)
    yield Expensive("explained by shap", (words * 70).encode(), TEXT, 200)


def recordings() -> Iterator[Expensive]:
    """An hour of silence, ten minutes of noise, and more than a request may hold."""
    rate = 16_000
    noise = np.random.default_rng(0).normal(0, 0.05, 600 * rate).astype("f4")
    hour = np.zeros(3600 * rate, "f4")
    for name, samples, status in (("noise", noise, 200), ("an hour of silence", hour, 200)):
        stream = io.BytesIO()
        soundfile.write(stream, samples, rate, format="FLAC")
        yield Expensive(name, stream.getvalue(), "audio/flac", status)


def asked(handler: BaseHandler, case: Expensive) -> dict[str, Any]:
    """Seconds (of the clock and of the processor), peak and kept memory in MB of one request."""
    headers = {"content-type": case.content_type}
    if case.name.startswith("explained by "):
        headers |= {"explain": "True", "x-method": case.name.rpartition(" ")[2]}
    memory.trim()
    Path("/proc/self/clear_refs").write_bytes(b"5")
    before, started, worked = memory.resident(), time.perf_counter(), time.process_time()
    (reply,) = handler.answer([{"body": case.body}], [headers])
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    status = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")]
    return {
        "request": case.name,
        "bytes": len(case.body),
        "status": reply.status,
        "seconds": round(seconds, 3),
        "processor_seconds": round(processor, 3),
        "peak_mb": (peak - before) // memory.MEGABYTE,
        "kept_mb": (memory.resident() - before) // memory.MEGABYTE,
    }


if __name__ == "__main__":
    main()
