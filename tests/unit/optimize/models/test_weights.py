"""Checkpoints as trainings leave them, and what is said of those that do not fit."""

import argparse
import json
import pathlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from optimize.errors import ModelError
from optimize.models.normalized import Normalized
from optimize.models.weights import load_checkpoint
from optimize.utils import torchscript


class Net(nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, classes)


def trained(seed: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {k: torch.randn(v.shape).to(v.dtype) for k, v in Net().state_dict().items()}


def prefixed(prefix: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in (state or trained()).items()}


def fits(model: nn.Module, state: dict[str, Tensor] | None = None) -> bool:
    loaded, wanted = model.state_dict(), state or trained()
    return all(torch.equal(loaded[name], value) for name, value in wanted.items())


OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 0.1}]}
CHECKPOINTS: dict[str, tuple[Callable[[], Any], str]] = {
    "plain": (trained, ""),
    "DataParallel": (lambda: prefixed("module."), "prefix 'module.' removed"),
    "compiled": (lambda: prefixed("_orig_mod."), "prefix '_orig_mod.' removed"),
    "compiled and DDP": (lambda: prefixed("module._orig_mod."), "'module._orig_mod.' removed"),
    "a training's": (
        lambda: {"epoch": 3, "model_state_dict": trained(), "optimizer_state_dict": OPTIMIZER},
        "from key 'model_state_dict'",
    ),
    "model": (lambda: {"model": trained(), "optimizer": OPTIMIZER}, "from key 'model'"),
    "Lightning": (
        lambda: {
            "epoch": 1,
            "state_dict": {**prefixed("model."), "loss.weight": torch.ones(5)},
            "optimizer_states": [OPTIMIZER],
            "hyper_parameters": {"lr": np.float64(0.1), "args": argparse.Namespace(width=4)},
            "hparams_name": "kwargs",
            "callbacks": {"ModelCheckpoint": {"best_model_path": pathlib.Path("a/b.ckpt")}},
            "shape": np.arange(3),
        },
        "from key 'state_dict', prefix 'model.' removed, 1 without it left out (loss.weight)",
    ),
    "Lightning's net": (
        lambda: {"state_dict": prefixed("net.module.")}, "prefix 'net.module.' removed"
    ),
    "averaged beside": (
        lambda: {"model": trained(2), "model_ema": trained(), "optimizer": OPTIMIZER},
        "from key 'model_ema', not from 'model'",
    ),
    "averaged, nested": (
        lambda: {"state_dict": trained(2), "ema": {"decay": 0.9, "module": prefixed("module.")}},
        "from key 'ema.module', not from 'state_dict', prefix 'module.' removed",
    ),
    "timm's": (
        lambda: {"state_dict": trained(2), "state_dict_ema": trained(), "args": {}},
        "from key 'state_dict_ema', not from 'state_dict'",
    ),
    "torch's averaged": (
        lambda: {**AveragedModel(Net()).state_dict(), **prefixed("module.")},
        "prefix 'module.' removed, 1 without it left out (n_averaged)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("made", "said"), CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_weights_are_found_and_said(made: Callable[[], Any], said: str, tmp_path: Path) -> None:
    torch.save(made(), tmp_path / "best.ckpt")
    model = Net()
    line = load_checkpoint(model, tmp_path / "best.ckpt")
    assert said in line and bool(line) == bool(said)
    assert fits(model)


def test_a_models_own_prefix_is_no_wrapping(tmp_path: Path) -> None:
    model = nn.ModuleDict({"model": Net(), "other": nn.Linear(1, 1)})
    wanted = prefixed("model.")
    torch.save({**wanted, **prefixed("other.", nn.Linear(1, 1).state_dict())}, tmp_path / "w.pt")
    assert load_checkpoint(model, tmp_path / "w.pt") == ""
    assert fits(model, wanted)


def test_weights_of_the_model_that_we_wrapped(tmp_path: Path) -> None:
    model = Normalized(Net(), 10.0, 2.0)
    torch.save(trained(), tmp_path / "inner.pt")
    load_checkpoint(model, tmp_path / "inner.pt")
    assert fits(model.body) and model.mean.item() == 10
    other = {**Normalized(Net(), 30.0, 4.0).state_dict(), **prefixed("body.")}
    torch.save(other, tmp_path / "whole.pt")
    load_checkpoint(model, tmp_path / "whole.pt")
    assert model.mean.item() == 30


def test_safetensors_by_any_name_and_half_precision(tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in trained().items()}
    save_file(prefixed("module.", half), tmp_path / "weights.bin")
    model = Net()
    assert "prefix 'module.' removed" in load_checkpoint(model, tmp_path / "weights.bin")
    assert fits(model, {k: v.float() if v.is_floating_point() else v for k, v in half.items()})


def test_a_mismatch_is_counted_and_named_briefly(tmp_path: Path) -> None:
    state = {**trained(), "fc.weight": torch.ones(9, 4), "fc.bias": torch.ones(9)}
    for number in range(7):
        state[f"extra.{number}"] = torch.ones(1)
    del state["stem.0.bias"]
    torch.save({"state_dict": prefixed("module.", state)}, tmp_path / "w.pt")
    with pytest.raises(ModelError) as caught:
        load_checkpoint(Net(), tmp_path / "w.pt")
    assert str(caught.value).endswith(
        "does not fit the model: 6 of its 9 weights fit; 1 missing (stem.0.bias), "
        "7 unexpected (extra.0, extra.1, extra.2, ...), "
        "2 of another shape (fc.weight [9, 4] for [5, 4], fc.bias [9] for [5])"
    )


class Outsider:
    """Something that a training script keeps beside its weights."""


def html(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><title>Sign in</title>")


def cut(path: Path) -> None:
    torch.save(trained(), path)
    path.write_bytes(path.read_bytes()[:1500])


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("weights/best.pt", "x")


def scripted(path: Path) -> None:
    torchscript.save(torchscript.script(nn.ReLU(), (torch.ones(1),)), path)


def damaged(path: Path) -> None:
    save_file(trained(), path)
    path.write_bytes(path.read_bytes()[:-100])


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "cannot be read: No such file"),
    "folder": (lambda path: path.mkdir(), "is a folder.*model: ./folder"),
    "empty": (lambda path: path.touch(), "is empty"),
    "web page": (html, "is a web page"),
    "Git LFS": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "is a Git LFS pointer.*git lfs pull",
    ),
    "cut off": (cut, "is cut off"),
    "cut off safetensors": (damaged, "is a damaged safetensors file"),
    "zip": (archive, r"is a zip archive.*weights/best\.pt"),
    "TorchScript": (scripted, r"is a TorchScript file: name it as the model \(model: w\.pt\)"),
    "JSON": (lambda path: path.write_text(json.dumps({"a": 1})), "is a JSON text"),
    "text": (lambda path: path.write_text("weights"), "is no file of torch.save or safetensors"),
    "HDF5": (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "is a gzip archive: unpack it"),
    "garbage": (lambda path: path.write_bytes(b"\x80\x02garbage"), "is damaged or cut off"),
    "whole module": (
        lambda path: torch.save(Net(), path),
        r"is a whole module \(of class .*test_weights\.Net\).*torch\.load\('w\.pt'.*state_dict\(\)",
    ),
    "an object beside": (
        lambda path: torch.save({"state_dict": trained(), "trainer": Outsider()}, path),
        r"holds an object of .*Outsider beside its weights.*c\['state_dict'\]",
    ),
    "no weights": (
        lambda path: torch.save({"epoch": 1, "lr": 0.1, "seed": 2, "loss": []}, path),
        r"holds the keys epoch, lr, seed, \.\.\., and no weights",
    ),
    "one tensor": (lambda path: torch.save(torch.ones(1), path), "holds a Tensor, and no weights"),
    "nothing": (lambda path: torch.save({}, path), "holds nothing, and no weights"),
    "another network's": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        r"0 of its 9 weights fit; 8 missing \(stem.*2 unexpected \(weight, bias\)",
    ),
}


@pytest.mark.parametrize(("write", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_checkpoint_is_named_as_what_it_is(
    write: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "w.pt")
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ModelError, match=f"(?s){said}") as caught:
        load_checkpoint(model, tmp_path / "w.pt")
    assert len(str(caught.value)) < 500
    assert fits(model, before)
