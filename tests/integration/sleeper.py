"""An artifact whose handler sleeps as told, hangs or panics, and notes what it did."""

import json
import shutil
from pathlib import Path

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import ROOT

HANDLER = '''
import os
import time
from pathlib import Path
from typing import Any

from handlers.base import BaseHandler
from handlers.payload import Request


class Panic(BaseException):
    """As a library in Rust raises it."""


class Sleeper(BaseHandler):
    """Sleeps for a number of seconds; "hang" until the file `go` is there, "panic"."""

    def preprocess(self, request: Request) -> list[Any]:
        return [entry.value for entry in request.inputs]

    def inference(self, inputs: list[Any]) -> list[Any]:
        return [self._sleep(value) for value in inputs]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        return {"slept": results[0]}

    def _sleep(self, value: Any) -> Any:
        notes = Path(os.environ["TS_SLEEPER"])
        with (notes / "done").open("a") as file:
            file.write(f"{value}\\n")
        if value == "panic":
            raise Panic
        while value == "hang" and not (notes / "go").exists():
            time.sleep(0.05)
        time.sleep(value if isinstance(value, float) else 0)
        return value
'''


def seal(folder: Path, store: Path, **serving: int) -> Path:
    """Write `store`/sleeper.mar and return its path."""
    artifact = quadrant.make(folder, name="sleeper", batch_size=1, max_batch_delay_ms=1, **serving)
    card = json.loads((artifact / "model.json").read_text())
    card |= {"handler": "sleeper", "task": "sleeping"}
    quadrant.write(artifact / "model.json", card)
    handlers = folder / "handlers"
    shutil.copytree(ROOT / "handlers", handlers, ignore=shutil.ignore_patterns("__pycache__"))
    (handlers / "sleeper.py").write_text(HANDLER)
    return mar.seal(artifact, store, handlers=handlers).path
