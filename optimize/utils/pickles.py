"""Pickles of whole modules, for later runs on this machine. Never serve or share one."""

import warnings
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from optimize.errors import StorageError
from optimize.utils.torchvision_shim import retrying


def save(value: Any, path: Path) -> None:
    """Pickle `value`. Classes from a user's file are stored by value (cloudpickle).

    Raises:
        StorageError: the file could not be written.
    """
    try:
        torch.save(value, path, pickle_module=cloudpickle)
    except RuntimeError as error:  # how torch reports a full disk
        raise StorageError(f"cannot write {path}: {error}; free some space") from error


def load(path: Path) -> Any:
    """The value that `save` wrote."""
    with warnings.catch_warnings():  # torch's own unpickling of quantized tensors
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")
        return retrying(lambda: torch.load(path, map_location="cpu", weights_only=False))
