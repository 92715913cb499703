"""Which of an archive's files serves: real runtimes, on files made for the purpose."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handlers import runtimes
from handlers.card import read_card
from handlers.errors import ModelError
from handlers.image_classifier import ImageClassifier
from tests.unit.handlers import archive

ONNX = "exports/onnx/model.onnx"
PIXELS = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32).remainder(251).to(torch.uint8)
LOADS = [[(PIXELS[:1],)], [(PIXELS,)]]


class Mean(nn.Module):
    """The mean colour, times `scale`, after `rounds` of work that change nothing."""

    def __init__(self, rounds: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.rounds, self.scale = rounds, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.float().mean((2, 3)) * (self.scale / 16)
        idle = x.float()
        for _ in range(self.rounds):
            idle = torch.sin(idle)
        return mean + 0 * idle.mean((1, 2, 3)).unsqueeze(1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX files: `right`, `wrong` and `slow`."""
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    models = {"right": Mean(), "wrong": Mean(scale=3.0), "slow": Mean(rounds=60)}
    for name, model in models.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                model, (PIXELS,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            )
            torch.onnx.export(
                program, (), str(folder / name), dynamo=True, external_data=False, verbose=False
            )
    return {name: folder / name for name in models}


def make(folder: Path, alternative: Path | bytes, rounds: int = 0) -> Path:
    """An archive folder whose model works so many rounds, with another file for ONNX Runtime."""
    archive.make(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Mean(rounds)).save(str(folder / "model.pt"))
    target = folder / ONNX
    target.parent.mkdir(parents=True)
    if isinstance(alternative, bytes):
        target.write_bytes(alternative)
    else:
        shutil.copy(alternative, target)
    name_alternatives(folder, [ONNX])
    return folder


def name_alternatives(folder: Path, files: list[str]) -> None:
    card = json.loads((folder / "model.json").read_text())
    card["model"]["alternatives"] = files
    (folder / "model.json").write_text(json.dumps(card))


def fastest(folder: Path) -> runtimes.Verdict:
    return runtimes.fastest(folder, read_card(folder), LOADS)


def test_the_faster_file_serves(tmp_path, exported):
    verdict = fastest(make(tmp_path, exported["right"], rounds=60))
    assert verdict.file == ONNX
    assert verdict.skipped == {}
    slow, fast = verdict.milliseconds["model.pt"], verdict.milliseconds[ONNX]
    assert len(slow) == len(fast) == len(LOADS)
    assert all(a > b > 0 for a, b in zip(slow, fast, strict=True))


def test_a_slower_file_does_not(tmp_path, exported):
    verdict = fastest(make(tmp_path, exported["slow"]))
    assert verdict.file == "model.pt"
    assert set(verdict.milliseconds) == {"model.pt", ONNX}


def test_a_faster_file_that_answers_otherwise_does_not(tmp_path, exported):
    verdict = fastest(make(tmp_path, exported["wrong"], rounds=60))
    assert verdict.file == "model.pt"
    assert set(verdict.milliseconds) == {"model.pt"}
    assert "its answers are off by" in verdict.skipped[ONNX]


def test_a_broken_file_is_skipped_and_the_others_are_measured(tmp_path, exported):
    folder = make(tmp_path, exported["right"], rounds=60)
    (folder / "broken.onnx").write_bytes(b"no model at all")
    name_alternatives(folder, ["broken.onnx", "gone.xml", ONNX])
    verdict = fastest(folder)
    assert verdict.file == ONNX
    assert "does not load in ONNX Runtime" in verdict.skipped["broken.onnx"]
    assert "gone.xml is missing" in verdict.skipped["gone.xml"]


def fake_package(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Another onnxruntime, first on the path of the measuring process."""
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_runtime_that_is_not_installed_is_skipped_with_its_remedy(
    tmp_path, exported, monkeypatch
):
    fake_package(tmp_path / "path", monkeypatch, "raise ImportError('not here')")
    verdict = fastest(make(tmp_path / "model", exported["right"], rounds=60))
    assert verdict.file == "model.pt"
    assert "pip install onnxruntime" in verdict.skipped[ONNX]


def test_a_runtime_that_takes_its_process_down_costs_the_worker_nothing(
    tmp_path, exported, monkeypatch
):
    fake_package(tmp_path / "path", monkeypatch, "import os; os.abort()")
    verdict = fastest(make(tmp_path / "model", exported["right"], rounds=60))
    assert (verdict.file, verdict.milliseconds) == ("model.pt", {})
    assert "ended with -6" in verdict.skipped[ONNX]


def test_only_the_first_worker_measures(tmp_path, exported):
    folder = make(tmp_path, exported["right"], rounds=60)
    first = fastest(folder)
    (folder / ONNX).unlink()
    assert fastest(folder) == first


@pytest.mark.parametrize("kept", ["{", "[]", '{"file": "other.onnx"}', '{"files": []}'])
def test_a_verdict_that_is_none_is_made_anew(tmp_path, exported, kept):
    folder = make(tmp_path, exported["slow"])
    (folder / runtimes.VERDICT_FILE).write_text(kept)
    assert set(fastest(folder).milliseconds) == {"model.pt", ONNX}


def initialized(folder: Path) -> ImageClassifier:
    handler = ImageClassifier()
    properties = {"model_dir": str(folder), "batch_size": 8}
    handler.initialize(SimpleNamespace(system_properties=properties, metrics=None))
    return handler


def test_a_worker_serves_from_it_and_says_so(tmp_path, exported):
    handler = initialized(make(tmp_path, exported["right"], rounds=60))
    runtime = handler.describe_handle()["engine"]
    assert runtime["file"] == ONNX
    (tmp_path / ONNX).unlink()  # it is loaded already
    expected = torch.softmax(Mean()(PIXELS), 1)
    torch.testing.assert_close(torch.stack(handler.inference(list(PIXELS))), expected)


def test_a_worker_that_cannot_load_the_winner_serves_its_own_file(tmp_path):
    folder = make(tmp_path, b"no model at all")
    (folder / runtimes.VERDICT_FILE).write_text(json.dumps({"file": ONNX}))
    handler = initialized(folder)
    runtime = handler.describe_handle()["engine"]
    assert runtime["file"] == "model.pt"
    assert "does not load in ONNX Runtime" in runtime["skipped"][ONNX]
    expected = torch.softmax(Mean()(PIXELS), 1)
    torch.testing.assert_close(torch.stack(handler.inference(list(PIXELS))), expected)


@pytest.mark.parametrize("alternatives", ["a.onnx", [1], {}])
def test_a_card_with_other_alternatives_is_refused(tmp_path, alternatives):
    archive.make(tmp_path)
    name_alternatives(tmp_path, alternatives)
    with pytest.raises(ModelError, match="alternatives"):
        read_card(tmp_path)
