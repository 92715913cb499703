"""Imports packages that need torchvision when torchvision's compiled operators are missing."""

import contextlib
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_SCHEMAS = ("nms", "qnms")
_library: torch.library.Library | None = None


def retrying(action: Callable[[], T]) -> T:
    """`action()`, repeated once if torchvision failed to import because its operators are missing.

    timm and transformers import torchvision. A torchvision built for another torch release raises
    "operator torchvision::nms does not exist" when it registers the shape of `nms`. Once the
    operators are declared, the rest of it works; no classifier calls them.
    """
    try:
        return action()
    except Exception as error:
        if not _torchvision_is_why(error):
            raise
    _declare()
    # Half-imported modules would be reused by the second import.
    for name in list(sys.modules):
        if name.split(".")[0] in ("torchvision", "timm", "transformers"):
            del sys.modules[name]
    return action()


def _torchvision_is_why(error: BaseException | None) -> bool:
    """Whether the error, or one it came from, is torchvision missing its operators."""
    while error is not None:
        if "operator torchvision::" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _declare() -> None:
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _SCHEMAS:
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            with contextlib.suppress(RuntimeError):  # already declared elsewhere
                _library.define(schema)
