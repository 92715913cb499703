"""The log level of TorchServe's own worker process.

It is left alone in any other process, so that a handler can run in a test or in a
web service.
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
    Metrics are INFO lines of one logger, which therefore stays at INFO.
    """
    if in_torchserve_worker():
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
