"""Finished stages on disk, so that a later run can continue after them.

Each stage has a folder `NN-NAME` with `stage.json`, which holds its digest, and its modules:

* as plain data where they are made of torch's and our own classes alone: their structure in
  `modules.json`, their tensors in `modules.safetensors`;
* else (a user's classes, captured graphs) as a pickle `state.pt`, which is a program: it is
  signed with the user's key, and one that is not is never loaded.

A model that a stage did not change is stored only with the stage that made it.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from optimize.errors import StorageError
from optimize.pipeline import plain
from optimize.tasks.base import State
from optimize.utils import files, pickles

_SHARED = ("float_model", "original")
_MODULES = ("model", *_SHARED)


@dataclass(frozen=True)
class Finished:
    """The folder of a finished stage."""

    folder: Path

    def matches(self, digest: str) -> bool:
        """Whether the folder holds the result of a stage with this digest."""
        try:
            return bool(self._stage().get("digest") == digest)
        except (OSError, ValueError, AttributeError):
            return False

    def _stage(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "stage.json").read_text("utf-8"))
        return found

    def load(self) -> dict[str, nn.Module]:
        """The saved modules by name.

        Raises:
            Untrusted: they are a pickle that this user did not sign.
            Exception: of any kind, if a file is damaged.
        """
        if (self.folder / "modules.json").is_file():
            written = json.loads((self.folder / "modules.json").read_text("utf-8"))
            return plain.unpack(written, load_file(self.folder / "modules.safetensors"))
        stage = self._stage()
        modules: dict[str, nn.Module] = pickles.loads(
            self.folder / "state.pt", stage["digest"], stage.get("signature")
        )
        return modules

    def save(
        self,
        modules: Mapping[str, nn.Module],
        digest: str,
        seconds: float,
        **more: Any,
    ) -> None:
        """Save modules, and `more` JSON values in `stage.json`; after a failure nothing is there.

        Raises:
            StorageError: the disk is full or the folder cannot be written to.
        """
        stage = {"digest": digest, "seconds": round(seconds, 1), **more}
        with files.replacing(self.folder) as aside:
            aside.mkdir(parents=True)
            try:
                written, tensors = plain.pack(modules)
            except plain.NotPlain:
                pickles.save(dict(modules), aside / "state.pt")
                stage["signature"] = pickles.sign(aside / "state.pt", digest)
            else:
                files.write_json(aside / "modules.json", written)
                try:
                    save_file(tensors, aside / "modules.safetensors")
                except SafetensorError as error:  # how it reports a full disk
                    raise StorageError(f"cannot write {self.folder}: {error}") from error
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
        modules = {name: getattr(state, name) for name in _MODULES if name not in unchanged}
        rest = {
            field.name: getattr(state, field.name)
            for field in dataclasses.fields(state)
            if field.name not in _MODULES
        }
        self.save(modules, digest, seconds, state=rest, before=before_digest if unchanged else None)

    def load_state(self, before: State | None) -> State:
        """Load a state; `before` is the state of the previous stage."""
        modules: dict[str, Any] = {name: getattr(before, name, None) for name in _SHARED}
        modules |= self.load()
        return State(**modules, **self._stage()["state"])


def last_state(stages: Path, digest: str) -> State | None:
    """The state after the last stage of the run whose report has this digest, or None.

    Raises:
        Untrusted: a stage is a pickle that this user did not sign.
        Exception: of any kind, if a file is damaged.
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
