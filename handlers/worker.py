"""TorchServe's own worker process: its settings, and its end.

It is left alone in any other process, so that a handler can run in a test or in a
web service.
"""

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

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


def retire(connection: Any, idle: Callable[[], float]) -> None:
    """End TorchServe's worker at its first idle moment; TorchServe starts another in its place.

    Nothing is lost: requests wait in TorchServe's queue, and none is under way in this worker.

    Args:
        connection: the socket on which TorchServe sends batches.
        idle: gives the seconds since the last batch was answered, 0 during one.
    """
    if in_torchserve_worker() and connection is not None:
        threading.Thread(target=_leave, args=(connection, idle), daemon=True).start()


def _leave(connection: Any, idle: Callable[[], float]) -> None:
    while True:
        arrived, _, _ = select.select([connection], [], [], IDLE_SECONDS)
        if not arrived and idle() > IDLE_SECONDS:
            logger.warning("this worker has grown too large and ends; TorchServe starts another")
            os._exit(0)
        if arrived:
            time.sleep(IDLE_SECONDS)
