"""Model files to callables: one loader per file suffix, chosen by `load_model`.

A loader prepares its worker process (threads, quantized engine), loads the file
without unpickling anything, and returns a function from input tensors to the
model's output. A new engine is one more sibling of `load_torchscript` and one
more entry of LOADERS.
"""

import ctypes
import logging
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from handlers.card import Card
from handlers.errors import ModelError

logger = logging.getLogger(__name__)

Predict = Callable[..., Any]

WARM_UP_CALLS = 3

# glibc's malloc.h. Big activations otherwise go back to the kernel after every
# operator and come back as fresh, faulting pages.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MALLOC_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))


def load_model(folder: Path, card: Card) -> Predict:
    """The card's model file as a callable, its process prepared; ModelError if it cannot be."""
    path = folder / card.model["file"]
    loader = LOADERS.get(path.suffix)
    if loader is None:
        raise ModelError(f"{path.name}: no engine for it, known are {', '.join(sorted(LOADERS))}")
    if not path.is_file():
        raise ModelError(f"{path} is missing: rebuild the archive with build_mar.sh")
    return loader(path, card)


def load_torchscript(path: Path, card: Card) -> Predict:
    """A TorchScript file, on the card's threads and quantized engine."""
    torch.set_num_threads(card.threads)
    use_quantized_engine(card.model.get("quantized_engine"))
    with warnings.catch_warnings():
        # PyTorch 2.13 announces the end of TorchScript at every call and ships it all the same.
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        try:
            module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path} is not a whole TorchScript file: {error}") from error

    def predict(*tensors: torch.Tensor) -> Any:
        with torch.inference_mode():
            return module(*tensors)

    return predict


LOADERS: dict[str, Callable[[Path, Card], Predict]] = {".pt": load_torchscript}


def use_quantized_engine(name: str | None) -> None:
    """Select the engine a quantized file was made for; without it, its first call fails."""
    if name is None:
        return
    if name not in torch.backends.quantized.supported_engines:
        known = ", ".join(torch.backends.quantized.supported_engines)
        raise ModelError(f"this PyTorch has no quantized engine {name!r} (it has {known})")
    torch.backends.quantized.engine = name


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next call; False where malloc is another.

    The same as MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the
    environment, see mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018  absent from musl's compatibility library
        return all(libc.mallopt(option, value) == 1 for option, value in _MALLOC_SETTINGS)
    except (OSError, AttributeError):
        return False


def warm_up(call: Callable[[int], object], sizes: Iterable[int]) -> None:
    """Call with every batch size WARM_UP_CALLS times; ModelError when the model fails.

    TorchScript specialises its graph in the first calls of each new shape.
    """
    for size in sizes:
        for _ in range(WARM_UP_CALLS):
            try:
                call(size)
            except Exception as error:
                raise ModelError(f"the model fails on a batch of {size}: {error}") from error
