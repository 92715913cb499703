"""`ts.handler_utils.timer`: times a handler's methods where model-config.yaml asks for it."""

import functools
import time
from collections.abc import Callable
from typing import Any


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Report a method's milliseconds as `ts_handler_NAME` if `handler: {profile: true}` is set."""

    @functools.wraps(function)
    def measured(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = getattr(self, "context", None)
        settings = getattr(context, "model_yaml_config", None) or {}
        if not (settings.get("handler") or {}).get("profile"):
            return function(self, *args, **kwargs)
        started = time.perf_counter()
        answer = function(self, *args, **kwargs)
        spent = 1000 * (time.perf_counter() - started)
        self.context.metrics.add_time(f"ts_handler_{function.__name__}", spent)
        return answer

    return measured
