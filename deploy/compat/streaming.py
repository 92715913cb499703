"""`ts.handler_utils.utils`: partial answers, and classes by name."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.compat import results
from deploy.compat.util import PredictionException

__all__ = ["PredictionException", "import_class", "send_intermediate_predict_response"]


def send_intermediate_predict_response(
    ret: Sequence[Any],
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Any = None,
) -> None:
    """Send each request of the batch a part of its answer; a client that takes none misses it."""
    for index in req_id_map:
        write = context.response_writer(index)
        if write is not None:
            write(results.encoded(ret[index]))


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """The class of a dotted name, below `module_prefix` if given. Raises ImportError."""
    module, _, name = class_name.rpartition(".")
    parts = [part for part in (module_prefix, module) if part]
    found = getattr(importlib.import_module(".".join(parts)), name, None) if parts else None
    if not isinstance(found, type):
        raise ImportError(f"no class {class_name!r}" + (f" in {module_prefix}" * bool(parts)))
    return found
