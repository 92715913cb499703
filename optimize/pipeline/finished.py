"""Finished stages on disk, so that a run goes on where another one ended.

Each stage has a folder `NN-NAME` with `state.pt` and `stage.json`, the digest it belongs to. A
model that a stage left as it was is stored with the stage that made it, not again.
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimize.tasks.base import State
from optimize.utils import files, pickles

_SHARED = ("float_model", "original")


@dataclass(frozen=True)
class Finished:
    """What a finished stage left in its folder."""

    folder: Path

    def matches(self, digest: str) -> bool:
        """Whether the folder holds what this digest stands for."""
        try:
            stage = json.loads((self.folder / "stage.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(stage.get("digest") == digest)

    def load(self) -> Any:
        """What was saved."""
        return pickles.load(self.folder / "state.pt")

    def save(self, value: Any, digest: str, seconds: float) -> None:
        """Save a value that can be pickled; aside first, so that it is whole or absent."""
        with files.replacing(self.folder) as aside:
            aside.mkdir(parents=True)
            pickles.save(value, aside / "state.pt")
            files.write_json(aside / "stage.json", {"digest": digest, "seconds": round(seconds, 1)})

    def save_state(self, state: State, before: State | None, digest: str, seconds: float) -> None:
        """Save a state; `before` is that of the stage before it, if that was saved too."""
        same = [
            name
            for name in _SHARED
            if before is not None and getattr(state, name) is getattr(before, name)
        ]
        stored = copy.copy(state)
        for name in same:
            setattr(stored, name, None)
        self.save(stored, digest, seconds)

    def load_state(self, before: State | None) -> State:
        """Load a state whose stage came after `before`."""
        state: State = self.load()
        for name in _SHARED:
            if getattr(state, name) is None:
                setattr(state, name, getattr(before, name))
        return state


def last_state(stages: Path, digest: str) -> State | None:
    """The state after the last stage of the run whose report has this digest; None without one.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: a file is damaged.
    """
    state = None
    for folder in sorted(stages.glob("[0-9][0-9]-*")):
        if not (folder / "stage.json").is_file():
            continue
        state = Finished(folder).load_state(state)
        # The report's digest starts with that of the last stage.
        known = json.loads((folder / "stage.json").read_text(encoding="utf-8"))["digest"]
        if digest.startswith(known):
            return state
    return None
