"""What a look at a model finds, without running its code."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.draft import model
from optimize.errors import ModelError
from tests.unit.optimize.draft import made

KNOWN = ("resnet", "bert")


def look(given: object, folder: Path, task: str = "image_classification") -> model.Model:
    return model.look(str(given), None, folder, task, KNOWN)


def test_code_is_read_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("raise SystemExit\n" + made.NET)
    found = look("net.py", Path())
    assert (found.model, found.untrained) == ("net.py:Brightness", True)
    assert look("net.py:helper", Path()).model == "net.py:helper"
    Path("two.py").write_text(
        "def build(): ...\nclass A(nn.Module): ...\nclass B(nn.Module): ...\n"
    )
    assert look("two.py", Path()).model == "two.py:build"
    Path("both.py").write_text("class A(nn.Module): ...\nclass B(nn.Module): ...\n")
    with pytest.raises(ModelError, match=r"both\.py has A, B: say which .* --model both\.py:A"):
        look("both.py", Path())
    with pytest.raises(ModelError, match=r"net\.py has no make; it has helper, Brightness"):
        look("net.py:make", Path())
    Path("broken.py").write_text("def (")
    with pytest.raises(ModelError, match="no Python file"):
        look("broken.py", Path())


def test_files(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    torch.jit.script(net).save(str(tmp_path / "net.pt"))
    found = look(tmp_path / "net.pt", tmp_path)
    assert found.model == {"torchscript": {"name": str(tmp_path / "net.pt")}}
    assert not found.untrained
    torch.save(net.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="2 tensors such as weight, bias, and not the code"):
        look(tmp_path / "weights.pt", tmp_path)
    torch.save(net, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="whole module"):
        look(tmp_path / "whole.pt", tmp_path)
    (tmp_path / "page.pt").write_text("<!DOCTYPE html>")
    with pytest.raises(ModelError, match="web page"):
        look(tmp_path / "page.pt", tmp_path)


def test_folders(tmp_path: Path) -> None:
    folder = made.bert(tmp_path / "bert")
    found = look(folder, tmp_path, "text_classification")
    assert found.model == {"bert": {"path": str(folder)}}
    assert (found.positions, found.untrained) == (64, True)
    config = json.loads((folder / "config.json").read_text())
    head = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}
    (folder / "config.json").write_text(json.dumps({**config, **head}))
    found = look(folder, tmp_path, "text_classification")
    assert not found.untrained and "its labels: a, b" in found.said
    assert look(folder, tmp_path).model == {"huggingface": str(folder)}
    assert look(folder, tmp_path, "speech_recognition").model == {"whisper": {"path": str(folder)}}
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        look(folder, tmp_path)


def test_names(tmp_path: Path) -> None:
    assert look("resnet", tmp_path).untrained and not look("bert", tmp_path).untrained
    assert look("timm/resnet18", tmp_path).model == {"timm": {"name": "resnet18"}}
    with pytest.raises(ModelError, match="there is no timm"):
        model.look("timm", None, tmp_path, "image_classification", [*KNOWN, "timm"])
    with pytest.raises(ModelError, match="or one of bert, resnet"):
        look("resnett", tmp_path)
