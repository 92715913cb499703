"""A stage's folder: what comes back, and that nothing put there by others ever runs."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.models.architectures import convnet
from optimize.pipeline.finished import Finished, last_state
from optimize.tasks.base import State
from optimize.utils import signatures


class Foreign(nn.Linear):
    """A user's class, which only a pickle can hold."""


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.file, "it ran")


def plant(folder: Path, evidence: Path) -> None:
    """Put a payload in the place of what a stage kept."""
    for name in ("modules.json", "modules.safetensors"):
        (folder / name).unlink(missing_ok=True)
    with (folder / "state.pt").open("wb") as file:
        pickle.dump(Payload(evidence), file)


@pytest.mark.parametrize("model", [convnet.build(3), Foreign(2, 2)], ids=["ours", "foreign"])
def test_a_payload_in_the_place_of_a_stage_does_not_run(model: nn.Module, tmp_path: Path) -> None:
    finished = Finished(tmp_path / "00-train")
    finished.save_state(State.of(model, loss=1.5), None, "d1", 2.0)
    stored = {path.name for path in finished.folder.iterdir()}
    assert ("state.pt" in stored) == isinstance(model, Foreign)
    plant(finished.folder, tmp_path / "evidence")
    assert finished.matches("d1")
    for load in (lambda: finished.load_state(None), lambda: last_state(tmp_path, "d1")):
        with pytest.raises(signatures.Untrusted):
            load()
    assert not (tmp_path / "evidence").exists()
    pickle.loads((finished.folder / "state.pt").read_bytes())
    assert (tmp_path / "evidence").exists(), "the payload works, so the above can fail"


@pytest.mark.parametrize("model", [convnet.build(3), Foreign(2, 2)], ids=["ours", "foreign"])
def test_a_state_comes_back_with_what_it_shares(model: nn.Module, tmp_path: Path) -> None:
    first, second = Finished(tmp_path / "00-train"), Finished(tmp_path / "01-prune")
    trained = State.of(model, loss=1.5)
    smaller = trained.then(convnet.build(3, widths=(8,), strides=(2,)), ratio=0.5)
    first.save_state(trained, None, "d1", 2.0)
    second.save_state(smaller, trained, "d2", 2.0, "d1")
    before = first.load_state(None)
    assert before.model is before.float_model is before.original
    assert before.details == {"loss": 1.5} and type(before.model) is type(model)
    after = second.load_state(before)
    assert after.original is before.original and after.model is after.float_model
    weight = next(smaller.model.parameters())
    assert torch.equal(next(after.model.parameters()), weight)
    kept = last_state(tmp_path, "d2:rest")
    assert kept is not None and kept.details == {"ratio": 0.5}
    assert last_state(tmp_path, "d3") is None


def test_a_signed_state_cannot_stand_for_another_stage(tmp_path: Path) -> None:
    finished = Finished(tmp_path / "00-train")
    finished.save_state(State.of(Foreign(2, 2)), None, "d1", 2.0)
    stage = json.loads((finished.folder / "stage.json").read_text())
    (finished.folder / "stage.json").write_text(json.dumps({**stage, "digest": "d2"}))
    with pytest.raises(signatures.Untrusted):
        finished.load_state(None)


def test_another_user_cannot_load_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = Finished(tmp_path / "00-train")
    finished.save_state(State.of(Foreign(2, 2)), None, "d1", 2.0)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another"))
    with pytest.raises(signatures.Untrusted, match="no key in"):
        finished.load_state(None)
