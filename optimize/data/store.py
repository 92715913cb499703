"""Tensors of a data set that grow batch by batch, in memory or, above a limit, in a file."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from optimize.errors import StorageError

IN_MEMORY = 1 << 30
"""Bytes of pictures in one split that are kept in memory."""


def collect(batches: Iterable[Tensor], count: int, shape: tuple[int, ...]) -> Tensor:
    """Batches uint8 `[n, *shape]` as one tensor of at most `count` rows.

    More than `IN_MEMORY` bytes lie in a temporary file that is mapped into memory (in TMPDIR;
    gone when the process ends, however it ends), so that no more than a batch need be held.

    Raises:
        StorageError: there is no room for the file.
    """
    whole = allocate((count, *shape))
    filled = 0
    for batch in batches:
        whole[filled : filled + len(batch)] = batch
        filled += len(batch)
        del batch
    return whole[:filled]


def allocate(shape: tuple[int, ...]) -> Tensor:
    """An empty uint8 tensor, in memory or in a file.

    Raises:
        StorageError: there is no room for the file.
    """
    size = 1
    for side in shape:
        size *= side
    if size <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    folder = Path(tempfile.gettempdir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix="marpress-pictures-") as file:
            # Blocks are taken now: a full disk would otherwise end the process by a signal.
            _reserve(file.fileno(), size)
            mapped = torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
    except OSError as error:
        raise StorageError(
            f"{size / 1e9:.1f} GB of decoded pictures do not fit in {folder} "
            f"({error.strerror or error}): set TMPDIR to a disk with room"
        ) from error
    return mapped.reshape(shape)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
