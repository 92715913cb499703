"""Importing packages that need torchvision where torchvision has no compiled operators."""

import contextlib
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_SCHEMAS = ("nms", "qnms")
_library: torch.library.Library | None = None


def retrying(action: Callable[[], T]) -> T:
    """`action()`; once more if torchvision failed to import for want of its operators.

    timm and transformers import torchvision. A build of it for another torch release raises
    "operator torchvision::nms does not exist" while it registers what `nms` returns; with the
    operators declared (no classifier calls them) the rest of it works.
    """
    try:
        return action()
    except Exception as error:
        if not _torchvision_is_why(error):
            raise
    _declare()
    # What was imported halfway would answer the second import as it is.
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
            with contextlib.suppress(RuntimeError):  # declared by someone else meanwhile
                _library.define(schema)
