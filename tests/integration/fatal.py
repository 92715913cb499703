"""An artifact whose handler ends its process as told: what no `except` in Python can hold back."""

import json
import shutil
from pathlib import Path

from deploy.archive import mar
from tests.integration import quadrant
from tests.integration.torchserve import ROOT

HANDLER = '''
import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import time
from typing import Any

from handlers.base import BaseHandler
from handlers.payload import Request


class Fatal(BaseHandler):
    """Twice the number that it is sent; words end the worker."""

    def preprocess(self, request: Request) -> list[Any]:
        return [entry.value for entry in request.inputs]

    def inference(self, inputs: list[Any]) -> list[Any]:
        return [self._obey(value) for value in inputs]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        return {"twice": results[0]}

    def _obey(self, value: Any) -> Any:
        if value == "exit":
            os._exit(3)
        if value == "segv":
            faulthandler._sigsegv()
        if value == "fork":  # a child that keeps what the worker had open
            if ctypes.PyDLL(None).fork() == 0:
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        if value == "children":
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            child.join()
            program = subprocess.Popen(["sleep", "60"])
            program.terminate()
            return [child.exitcode, program.wait()]
        if value == "memory":
            held = []
            while True:
                held.append(bytearray(64 << 20))
        if value == "hang":
            while True:
                time.sleep(3600)
        time.sleep(0.002)
        return 2 * value
'''


def seal(folder: Path, store: Path, **serving: int) -> Path:
    """Write `store`/fatal.mar and return its path."""
    artifact = quadrant.make(folder, name="fatal", **serving)
    card = json.loads((artifact / "model.json").read_text())
    card |= {"handler": "fatal", "task": "doubling"}
    quadrant.write(artifact / "model.json", card)
    handlers = folder / "handlers"
    shutil.copytree(ROOT / "handlers", handlers, ignore=shutil.ignore_patterns("__pycache__"))
    (handlers / "fatal.py").write_text(HANDLER)
    return mar.seal(artifact, store, handlers=handlers).path
