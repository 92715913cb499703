"""Finished stages on disk, so that a later run can continue after them.

Each stage has a folder `NN-NAME` with `state.pt`, and `stage.json` with its digest. A model that a
stage did not change is stored only with the stage that made it.
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
    """The folder of a finished stage."""

    folder: Path

    def matches(self, digest: str) -> bool:
        """Whether the folder holds the result of a stage with this digest."""
        try:
            stage = json.loads((self.folder / "stage.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(stage.get("digest") == digest)

    def load(self) -> Any:
        """The saved value."""
        return pickles.load(self.folder / "state.pt")

    def save(self, value: Any, digest: str, seconds: float, before: str | None = None) -> None:
        """Save a value that can be pickled; after a failure nothing is there."""
        with files.replacing(self.folder) as aside:
            aside.mkdir(parents=True)
            pickles.save(value, aside / "state.pt")
            stage = {"digest": digest, "seconds": round(seconds, 1), "before": before}
            files.write_json(aside / "stage.json", stage)

    def save_state(
        self,
        state: State,
        before: State | None,
        digest: str,
        seconds: float,
        before_digest: str | None = None,
    ) -> None:
        """Save a state; `before` is the state of the previous stage, if that was saved too, under
        `before_digest`."""
        unchanged = [
            name
            for name in _SHARED
            if before is not None
            and getattr(state, name) is getattr(before, name)
            and getattr(state, name) is not state.model  # a stage may train it in place
        ]
        stored = copy.copy(state)
        for name in unchanged:
            setattr(stored, name, None)
        self.save(stored, digest, seconds, before_digest if unchanged else None)

    def load_state(self, before: State | None) -> State:
        """Load a state; `before` is the state of the previous stage."""
        state: State = self.load()
        for name in _SHARED:
            if getattr(state, name) is None:
                setattr(state, name, getattr(before, name))
        return state


def last_state(stages: Path, digest: str) -> State | None:
    """The state after the last stage of the run whose report has this digest, or None.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: a file is damaged.
    """
    saved: dict[str, tuple[Finished, str | None]] = {}
    for file in sorted(stages.glob("[0-9][0-9]-*/stage.json")):
        stage = json.loads(file.read_text(encoding="utf-8"))
        saved[stage["digest"]] = Finished(file.parent), stage.get("before")

    def state_of(key: str) -> State:
        finished, before = saved[key]  # KeyError: the stage it builds on is gone, or another's
        return finished.load_state(state_of(before) if before else None)

    # The report's digest starts with that of the last stage.
    last = next((key for key in saved if digest.startswith(key)), None)
    return state_of(last) if last is not None else None
