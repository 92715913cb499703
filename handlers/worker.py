"""The log level of TorchServe's own worker process.

It does nothing in any other process, so that a handler can live in a test or in
a web service without rearranging it.
"""

import logging
import sys


def in_torchserve_worker() -> bool:
    """Whether this process is TorchServe's model_service_worker.py."""
    main = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return main.replace("\\", "/").endswith("ts/model_service_worker.py")


def quiet_logs() -> None:
    """Log warnings and errors only, and TorchServe's metrics.

    The worker logs a line per request that the server then parses and files away.
    Metrics travel the same road, as INFO lines of one logger, and must keep flowing.
    """
    if in_torchserve_worker():
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
