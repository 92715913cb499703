"""TorchServe's own worker process: its settings, and its end.

It is left alone in any other process, so that a handler can run in a test or in a
web service.
"""

import gc
import logging
import math
import os
import select
import sys
import threading
import time
from typing import Any

from handlers import wire

logger = logging.getLogger(__name__)

IDLE_SECONDS = 0.5


def in_torchserve_worker() -> bool:
    """Whether this process is TorchServe's model_service_worker.py."""
    main = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return main.replace("\\", "/").endswith("ts/model_service_worker.py")


def settle() -> None:
    """Log warnings and errors only, and TorchServe's metrics; leave bodies undecoded.

    The worker logs a line per request that the server then parses and files away.
    Metrics are INFO lines of one logger, which therefore stays at INFO. Left to
    decode JSON and text itself, the worker would do so whatever their size.
    """
    if in_torchserve_worker():
        os.environ["TS_DECODE_INPUT_REQUEST"] = "false"
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)


def settled() -> None:
    """After the warm-up: what was loaded stays, so the collector need not look at it again.

    Its full searches would go through all of torch, 50 ms in the middle of some request.
    """
    if in_torchserve_worker():
        gc.collect()
        gc.freeze()


class Retirement:
    """Ends TorchServe's worker at an idle moment; TorchServe starts another in its place.

    Nothing is lost: requests wait in TorchServe's queue, and none is under way in this worker.
    """

    def __init__(self) -> None:
        self._ended = math.inf  # when the last batch was answered; infinite during one
        self._leaving = False
        self._connected = False

    def begin(self, connection: Any) -> None:
        """A batch starts, which came by `connection`."""
        self._ended = math.inf
        if not self._connected and connection is not None and in_torchserve_worker():
            wire.install(connection)
            self._connected = True

    def end(self, worn: bool, connection: Any) -> None:
        """A batch is answered; `worn` workers leave once `connection`, the socket on which
        TorchServe sends batches, has been silent for IDLE_SECONDS."""
        self._ended = time.monotonic()
        if worn and not self._leaving and connection is not None and in_torchserve_worker():
            self._leaving = True
            threading.Thread(target=self._leave, args=(connection,), daemon=True).start()

    def _leave(self, connection: Any) -> None:
        while True:
            arrived, _, _ = select.select([connection], [], [], IDLE_SECONDS)
            if not arrived and time.monotonic() - self._ended > IDLE_SECONDS:
                logger.warning("this worker has grown too large and ends; another is started")
                os._exit(0)
            if arrived:
                time.sleep(IDLE_SECONDS)
