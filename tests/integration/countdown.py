"""An artifact whose handler streams: it counts down aloud, slowly enough to be watched."""

import json
import shutil
from pathlib import Path

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import ROOT

HANDLER = '''
import time
from typing import Any

from handlers.base import BaseHandler
from handlers.errors import RequestError
from handlers.payload import Request


class Countdown(BaseHandler):
    """A number to the list of numbers down from it; at 7 it fails."""

    parameters = ("stream",)

    def preprocess(self, request: Request) -> list[Any]:
        return [(int(entry.value), request) for entry in request.inputs]

    def inference(self, inputs: list[Any]) -> list[Any]:
        return [self._count(number, request) for number, request in inputs]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        answers = [{"numbers": numbers, "explain": request.explain} for numbers in results]
        return answers if request.many else answers[0]

    def _count(self, start: int, request: Request) -> list[int]:
        for number in range(start, 0, -1):
            if request.streaming:
                request.send({"number": number})
            time.sleep(0.3)
            if number == 7:
                raise RequestError(422, "unlucky", "not beyond 7")
        return list(range(start, 0, -1))
'''


def seal(folder: Path, store: Path) -> Path:
    """Write `store`/countdown.mar and return its path."""
    artifact = quadrant.make(folder, name="countdown", batch_size=1)
    card = json.loads((artifact / "model.json").read_text())
    card |= {"handler": "countdown", "task": "counting"}
    quadrant.write(artifact / "model.json", card)
    handlers = folder / "handlers"
    shutil.copytree(ROOT / "handlers", handlers, ignore=shutil.ignore_patterns("__pycache__"))
    (handlers / "countdown.py").write_text(HANDLER)
    return mar.seal(artifact, store, handlers=handlers).path
