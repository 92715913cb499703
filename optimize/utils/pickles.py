"""Pickles of whole modules, which run code when they are loaded.

`load` is for files in a private folder that this process or its parent made, `loads` for what was
kept: it takes only what this user signed.
"""

import io
import warnings
from pathlib import Path
from pickle import PicklingError
from typing import Any

import cloudpickle
import torch

from optimize.errors import ModelError, StorageError
from optimize.utils import files, signatures
from optimize.utils.torchvision_shim import retrying


def save(value: Any, path: Path) -> None:
    """Pickle `value`. Classes from a user's file are stored by value (cloudpickle).

    Raises:
        ModelError: something in it cannot be pickled, such as an open file or a lock.
        StorageError: the file could not be written.
    """
    try:
        torch.save(value, path, pickle_module=cloudpickle)
    except (TypeError, AttributeError, PicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and files.environment(error):  # torch's full disk
            raise StorageError(f"cannot write {path}: {error}; free some space") from error
        raise ModelError(
            "the model cannot be pickled, to be saved and measured in other processes: "
            f"{str(error).splitlines()[0]}; keep such an object out of the module and of the "
            "globals that its code uses"
        ) from error


def load(path: Path) -> Any:
    """The value that `save` wrote into a private folder of this run."""
    return _load(path)


def sign(path: Path, purpose: str) -> str | None:
    """The signature that `loads` asks for; None where no key can be kept."""
    return signatures.sign(path.read_bytes(), purpose)


def loads(path: Path, purpose: str, signature: object) -> Any:
    """The value that `save` wrote in an earlier run of this user's.

    Raises:
        Untrusted: `sign` did not give this signature, to this user and for this purpose.
    """
    content = path.read_bytes()  # read once: what is checked is what is loaded
    signatures.check(content, purpose, signature)
    return _load(io.BytesIO(content))


def _load(source: Path | io.BytesIO) -> Any:
    with warnings.catch_warnings():  # torch's own unpickling of quantized tensors
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")

        def read() -> Any:
            if isinstance(source, io.BytesIO):
                source.seek(0)
            return torch.load(source, map_location="cpu", weights_only=False)

        return retrying(read)
