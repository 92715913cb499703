"""Checkpoints inside a stage: a run that was killed goes on from the last one."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from optimize.errors import StorageError
from optimize.training import distributed
from optimize.utils import files


@dataclass
class Progress:
    """Where one training run keeps its state, and how often.

    Attributes:
        file: overwritten at each checkpoint, written aside and renamed.
        digest: of everything that decides the result; a file with another one is not used.
        seconds: between checkpoints.
    """

    file: Path
    digest: str
    seconds: float = 30.0
    _last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._last >= self.seconds

    def load(self) -> dict[str, Any] | None:
        """What was saved last, in every process; None if there is nothing that fits."""
        found = None
        if distributed.leads() and self.file.is_file():
            try:
                found = torch.load(self.file, map_location="cpu", weights_only=True)
            except Exception:  # a file of another version or a damaged one: start over
                found = None
            if not isinstance(found, dict) or found.get("digest") != self.digest:
                found = None
        agreed: dict[str, Any] | None = distributed.agreed(found)
        return agreed

    def save(self, value: dict[str, Any]) -> None:
        """Write tensors and plain values; rank 0 only.

        Raises:
            StorageError: the disk is full.
        """
        self._last = time.monotonic()
        if not distributed.leads():
            return
        try:
            files.write(
                self.file, lambda aside: torch.save({**value, "digest": self.digest}, aside)
            )
        except RuntimeError as error:  # how torch reports a full disk
            raise StorageError(f"cannot write {self.file}: {error}; free some space") from error
