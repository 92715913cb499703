"""Pickles of whole modules, for later runs on this machine. Never serve or share one."""

import warnings
from pathlib import Path
from pickle import PicklingError
from typing import Any

import cloudpickle
import torch

from optimize.errors import ModelError, StorageError
from optimize.utils.torchvision_shim import retrying


def save(value: Any, path: Path) -> None:
    """Pickle `value`. Classes from a user's file are stored by value (cloudpickle).

    Raises:
        ModelError: something in it cannot be pickled, such as an open file or a lock.
        StorageError: the file could not be written.
    """
    try:
        torch.save(value, path, pickle_module=cloudpickle)
    except (TypeError, AttributeError, PicklingError) as error:
        raise ModelError(
            f"the model cannot be pickled, to be saved and measured in other processes: {error}; "
            "keep such an object out of the module and of the globals that its code uses"
        ) from error
    except RuntimeError as error:  # how torch reports a full disk
        raise StorageError(f"cannot write {path}: {error}; free some space") from error


def load(path: Path) -> Any:
    """The value that `save` wrote."""
    with warnings.catch_warnings():  # torch's own unpickling of quantized tensors
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")
        return retrying(lambda: torch.load(path, map_location="cpu", weights_only=False))
