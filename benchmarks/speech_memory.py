"""Resident memory of a fresh worker that serves a speech artifact; prints one line of JSON.

python -m benchmarks.speech_memory FOLDER RECORDING... | FOLDER --hour
"""

import io
import json
import sys
import time
from pathlib import Path

from benchmarks.memory import resident
from handlers.speech_recognizer import SpeechRecognizer


class _Context:
    """The part of TorchServe's context that a handler reads at start."""

    metrics = None

    def __init__(self, folder: str) -> None:
        self.system_properties = {"model_dir": folder, "batch_size": 1}


def _flac(seconds: int) -> bytes:
    """Recordings of the test split one after the other, a second of silence between them."""
    import numpy as np
    import soundfile

    from optimize.data import speech

    buffer, remaining = io.BytesIO(), seconds * 16_000
    clips = [u.samples() for u in speech.load().test[::4]]
    with soundfile.SoundFile(buffer, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as file:
        while remaining > 0:
            for clip in clips:
                piece = np.concatenate([clip, np.zeros(16_000, np.float32)])[: max(0, remaining)]
                file.write(piece)
                remaining -= len(piece)
    return buffer.getvalue()


def _hour(handler: SpeechRecognizer) -> dict[str, float]:
    """How long an hour takes, and the memory that a minute and an hour leave in use."""
    figures: dict[str, float] = {}
    for name, seconds in (("minute_", 60), ("", 3600)):
        data = _flac(seconds)
        start = time.perf_counter()
        (reply,) = handler.answer([{"body": data}], [{}])
        figures[f"{name}seconds"] = round(time.perf_counter() - start, 1)
        if reply.status != 200:
            raise SystemExit(f"{reply.body!r}")
        figures[f"{name}segments"] = len(json.loads(reply.body)["segments"])
        figures[f"{name}megabytes"] = round(len(data) / 1e6, 1)
        figures |= {f"{name}{key}": megabytes for key, megabytes in resident().items()}
    return figures


def main() -> None:
    handler = SpeechRecognizer()
    handler.initialize(_Context(sys.argv[1]))
    if sys.argv[2:] == ["--hour"]:
        print(json.dumps(_hour(handler)))
        return
    for recording in sys.argv[2:]:
        (reply,) = handler.answer([{"body": Path(recording).read_bytes()}], [{}])
        if reply.status != 200:
            raise SystemExit(f"{recording}: {reply.body!r}")
    print(json.dumps(resident()))


if __name__ == "__main__":
    main()
