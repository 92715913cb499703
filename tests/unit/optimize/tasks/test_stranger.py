"""A stranger's model and data, with no edit of ours; and models that cannot go all the way."""

import json
from pathlib import Path

import pytest
import torch

from optimize.errors import ModelError, OptimizeError
from optimize.report import report
from optimize.run import run as run_recipe
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript

pytestmark = pytest.mark.slow

TIMM = """\
import timm
import torch
from sklearn.datasets import load_digits
from torch import nn

def digits():
    found = load_digits()
    images = torch.from_numpy(found.images * 15.9).to(torch.uint8)[:, None]
    labels = torch.from_numpy(found.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return {"train": (images[400:], labels[400:]), "test": (images[:400], labels[:400])}

class Digits(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.net = timm.create_model(
            "resnet10t", num_classes=classes, in_chans=1, stem_type="", stem_width=32
        )
        self.net.conv1 = nn.Conv2d(1, self.net.conv1.out_channels, 3, 1, 1, bias=False)
        self.net.maxpool = nn.Identity()

    def forward(self, pixels):
        return self.net(pixels.float() / 255.0 - 0.3)

def build(classes):
    return Digits(classes)
"""

RECIPE = """\
name: digits
task: image_classification
data: theirs.py:digits
model: theirs.py:build
stages:
  - train: {epochs: 4, batch_size: 64, learning_rate: 0.05, flip: false}
  - prune:
      ratio: 0.5
      recover: {epochs: 4, batch_size: 64, learning_rate: 0.05, flip: false}
  - quantize: {calibration: 256}
budget: {max_drop: 0.03}
"""


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_timm_model_on_scikit_learns_digits(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(TIMM)
    (tmp_path / "digits.yaml").write_text(RECIPE)
    checked = read_recipe(tmp_path / "digits.yaml")
    folder = run_recipe(checked, tmp_path / "out", say=lambda line: None)
    found = report.read(folder)
    assert found["gate"]["passed"] and found["original"]["accuracy"] > 0.95
    assert found["final"]["parameters"] < 0.4 * found["original"]["parameters"]
    assert found["final"]["bytes"] < 0.2 * found["original"]["bytes"]
    card = json.loads((folder / "model.json").read_text())
    assert card["input"] == {
        "size": [8, 8], "channels": 1, "resize": "crop", "resize_size": 8,
        "interpolation": "bilinear", "color_order": "grey",
        "max_pixels": 33554432, "max_bytes": 10485760,
    }  # fmt: skip
    assert card["labels"] == [str(n) for n in range(10)]
    assert card["model"]["quantized_engine"] in ("onednn", "fbgemm")


MODELS = """\
import torch
from torch import nn

def data(count=120):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    noise = torch.randint(0, 60, (count, 1, 12, 12), generator=generator)
    images = (noise + (labels * 90)[:, None, None, None]).to(torch.uint8)
    return {"train": (images[60:], labels[60:]), "test": (images[:60], labels[:60])}

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3, 2), nn.Linear(16, 3)

    def features(self, x):
        return torch.relu(self.conv(x / 255.0))

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))

class Branch(Small):
    def forward(self, x):
        hidden = self.features(x).mean((2, 3))
        if x.float().mean() > 100:
            return -self.head(hidden)
        return self.head(hidden)

class Dictionary(Small):
    def forward(self, batch):
        return super().forward(batch["image"])

class Odd(Small):
    def forward(self, x):
        hidden = torch.sort(self.features(x).flatten(2), dim=2).values
        return self.head(torch.erfinv(hidden.clamp(0, 0.9)).mean(2))

def build(kind):
    torch.manual_seed(0)
    return {"small": Small, "branch": Branch, "dictionary": Dictionary, "odd": Odd}[kind]()
"""


def run(tmp_path: Path, model: str, stages: str) -> tuple[Path, list[str]]:
    (tmp_path / "theirs.py").write_text(MODELS)
    (tmp_path / "theirs.yaml").write_text(
        f"name: theirs\ntask: image_classification\ndata: theirs.py:data\nmodel: {model}\n"
        f"stages: {stages}\nbudget: {{max_drop: 0.9}}\n"
    )
    said: list[str] = []
    checked = read_recipe(tmp_path / "theirs.yaml")
    return run_recipe(checked, tmp_path / "out", say=said.append), said


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    ("kind", "stages", "word"),
    [
        ("dictionary", "[]", "fails on pixels.*wrap it in your build function"),
        ("branch", "[]", "by the other rows of its batch.*a path .control flow. chosen"),
        ("branch", "[{quantize: {calibration: 32}}]", "control flow"),
    ],
)
def test_a_model_that_cannot_go_all_the_way_is_refused(
    tmp_path: Path, kind: str, stages: str, word: str
) -> None:
    with pytest.raises(OptimizeError, match=f"(?s){word}") as caught:
        run(tmp_path, f"{{theirs.py:build: {{kind: {kind}}}}}", stages)
    assert caught.value.exit_code in (5, 6)
    assert not (tmp_path / "out" / "report.json").exists()


def test_what_cannot_be_quantized_stays_in_float_and_is_named(tmp_path: Path) -> None:
    folder, _ = run(
        tmp_path, "{theirs.py:build: {kind: odd}}",
        "[train: {epochs: 1, batch_size: 16}, quantize: {calibration: 32}]",
    )  # fmt: skip
    found = report.read(folder)
    left = found["stages"][-1]["details"]["left_in_float"]
    assert left and any("head" in name for name in left)
    text = (folder / "report.html").read_text()
    assert "Left in float by quantize" in text and "head" in text


def test_a_torchscript_file_is_served_as_it_is_or_taught_from(tmp_path: Path) -> None:
    folder, _ = run(
        tmp_path, "{theirs.py:build: {kind: small}}", "[train: {epochs: 1, batch_size: 16}]"
    )
    saved = folder / "model.pt"
    (tmp_path / "foreign.pt").write_bytes(saved.read_bytes())
    again, _ = run(tmp_path, "./foreign.pt", "[]")
    found = report.read(again)
    assert found["stages"] == [] and found["original"]["parameters"] > 0
    pixels = torch.arange(5 * 144).reshape(5, 1, 12, 12).to(torch.uint8)
    with torch.no_grad():
        ours = torchscript.load(again / "model.pt")(pixels)
        theirs = torchscript.load(tmp_path / "foreign.pt")(pixels)
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(ModelError, match="stage prune needs the model's source"):
        run(tmp_path, "foreign.pt", "[prune]")
    taught, _ = run(
        tmp_path, "foreign.pt",
        "[distill: {student: {theirs.py:build: {kind: small}}, epochs: 1, batch_size: 16}]",
    )  # fmt: skip
    assert [s["name"] for s in report.read(taught)["stages"]] == ["distill"]
