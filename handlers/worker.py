"""The settings of TorchServe's own worker process.

It is left alone in any other process, so that a handler can run in a test or in a
web service.
"""

import logging
import os
import sys


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
