"""Resident memory of a fresh worker that serves a speech artefact; prints one line of JSON.

python benchmarks/speech_memory.py FOLDER RECORDING...
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from handlers.speech_recognizer import SpeechRecognizer  # noqa: E402


class _Context:
    """What TorchServe tells a handler at start."""

    metrics = None

    def __init__(self, folder: str) -> None:
        self.system_properties = {"model_dir": folder, "batch_size": 1}


def main() -> None:
    handler = SpeechRecognizer()
    handler.initialize(_Context(sys.argv[1]))
    for recording in sys.argv[2:]:
        (reply,) = handler.answer([{"body": Path(recording).read_bytes()}], [{}])
        if reply.status != 200:
            raise SystemExit(f"{recording}: {reply.body!r}")
    status = Path("/proc/self/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    megabytes = [round(int(found[key].split()[0]) / 1024, 1) for key in ("VmRSS", "VmHWM")]
    print(json.dumps({"rss_mb": megabytes[0], "peak_rss_mb": megabytes[1]}))


if __name__ == "__main__":
    main()
