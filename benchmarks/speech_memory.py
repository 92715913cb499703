"""Resident memory of a fresh worker that serves a speech artefact; prints one line of JSON.

python benchmarks/speech_memory.py FOLDER RECORDING... | FOLDER --hour
"""

import io
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from handlers.speech_recognizer import SpeechRecognizer  # noqa: E402


class _Context:
    """What TorchServe tells a handler at start."""

    metrics = None

    def __init__(self, folder: str) -> None:
        self.system_properties = {"model_dir": folder, "batch_size": 1}


def _flac(seconds: int) -> bytes:
    """Recordings of the test split one after the other, a second of silence between them."""
    import numpy as np
    import soundfile

    from optimize.data import speech

    buffer, left = io.BytesIO(), seconds * 16_000
    clips = [u.samples() for u in speech.load().test[::4]]
    with soundfile.SoundFile(buffer, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as file:
        while left > 0:
            for clip in clips:
                piece = np.concatenate([clip, np.zeros(16_000, np.float32)])[: max(0, left)]
                file.write(piece)
                left -= len(piece)
    return buffer.getvalue()


def _resident() -> tuple[float, float]:
    """Resident memory now and at its highest, MB."""
    status = Path("/proc/self/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (round(int(found[key].split()[0]) / 1024, 1) for key in ("VmRSS", "VmHWM"))
    return now, peak


def _hour(handler: SpeechRecognizer) -> dict[str, float]:
    """How long an hour takes, and the memory that a minute and an hour leave in use."""
    found = {}
    for name, seconds in (("minute_", 60), ("", 3600)):
        data = _flac(seconds)
        start = time.perf_counter()
        (reply,) = handler.answer([{"body": data}], [{}])
        found[f"{name}seconds"] = round(time.perf_counter() - start, 1)
        if reply.status != 200:
            raise SystemExit(f"{reply.body!r}")
        found[f"{name}segments"] = len(json.loads(reply.body)["segments"])
        found[f"{name}megabytes"] = round(len(data) / 1e6, 1)
        found[f"{name}rss_mb"], found[f"{name}peak_rss_mb"] = _resident()
    return found


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
    now, peak = _resident()
    print(json.dumps({"rss_mb": now, "peak_rss_mb": peak}))


if __name__ == "__main__":
    main()
