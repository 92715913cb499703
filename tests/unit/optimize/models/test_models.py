"""Models that users bring, and what is said of those that do not fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from optimize.errors import ModelError, OptionError
from optimize.evaluation.cost import macs, parameters
from optimize.models.architectures import resnet
from optimize.models.check import check
from optimize.models.notes import notes_of
from optimize.models.sources import huggingface, timm
from optimize.models.sources import torchscript as foreign
from optimize.models.sources.names import resolve
from optimize.recipe.reader import Named
from optimize.utils import pickles, torchscript, torchvision_shim

PIXELS = torch.randint(0, 255, (2, 1, 28, 28), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)


@pytest.mark.parametrize(
    ("name", "kind", "option"),
    [
        ("resnet", "resnet", None),
        ("mine.py:build", "mine.py:build", None),
        ("weights/model.pt", "torchscript", "weights/model.pt"),
        ("model.jit", "torchscript", "model.jit"),
        ("timm/resnet18", "timm", "resnet18"),
        ("microsoft/resnet-18", "huggingface", "microsoft/resnet-18"),
        ("./folder", "huggingface", "./folder"),
        ("../some/folder", "huggingface", "../some/folder"),
    ],
)
def test_what_a_bare_name_means(name: str, kind: str, option: str | None) -> None:
    found = resolve(Named(name, {}, ("recipe.yaml", 3)))
    assert found.name == kind and found.where == ("recipe.yaml", 3)
    assert found.options == ({} if option is None else {"name": option})


def test_a_timm_model_brings_its_normalisation() -> None:
    torch.manual_seed(0)
    model = timm.build("test_resnet", classes=7, channels=3).eval()
    assert [round(v) for v in model.mean.flatten().tolist()] == [128]
    pixels = PIXELS.expand(-1, 3, -1, -1)
    with torch.no_grad():
        expected = model.body((pixels.float() - model.mean) / model.std)
        assert torch.equal(model(pixels), expected)
    check(model, "timm", pixels, 7)


def test_what_timm_does_not_know_is_explained() -> None:
    with pytest.raises(OptionError, match=r"no model 'resnet1888'"):
        timm.build("resnet1888", classes=3)
    with pytest.raises(OptionError, match="wrong_option"):
        timm.build("test_resnet", classes=3, wrong_option=1)


def test_a_pickled_timm_model_loads_in_a_fresh_process(tmp_path: Path) -> None:
    """There timm, and through it torchvision, is imported by the unpickling itself."""
    pickles.save(timm.build("test_resnet", classes=3, channels=1).eval(), tmp_path / "model.pt")
    script = (
        "import sys, torch; from pathlib import Path; from optimize.utils import pickles\n"
        "model = pickles.load(Path(sys.argv[1]))\n"
        "print(list(model(torch.zeros(1, 1, 32, 32, dtype=torch.uint8)).shape))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "model.pt")]
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[4]
    )
    assert ran.stdout.strip() == "[1, 3]", ran.stderr


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = resnet.build(10, width=8, blocks=1).eval()
    path = tmp_path_factory.mktemp("foreign") / "model.pt"
    torchscript.save(torchscript.script(model, PIXELS[:1]), path)
    return model, path


def test_a_torchscript_file_is_a_model(saved: tuple[nn.Module, Path], tmp_path: Path) -> None:
    source, path = saved
    model = foreign.build(path.name, folder=path.parent)
    assert isinstance(model, foreign.TorchScriptFile)
    with torch.no_grad():
        torch.testing.assert_close(model(PIXELS), source(PIXELS))
    # Freezing folds batch norm into convolutions: a little less than in the source.
    assert 0.9 < parameters(model) / parameters(source) < 1
    assert macs(model, PIXELS[:1]) == macs(source, PIXELS[:1])
    pickles.save(model, tmp_path / "again.pt")
    again = pickles.load(tmp_path / "again.pt")
    with torch.no_grad():
        assert torch.equal(again(PIXELS), model(PIXELS))


def test_a_file_of_floats_takes_its_normalisation(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).eval()
    torchscript.save(torchscript.script(model, torch.zeros(1, 1, 28, 28)), tmp_path / "model.pt")
    built = foreign.build("model.pt", mean=100, std=50, folder=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(built(PIXELS), model((PIXELS.float() - 100) / 50))
    with pytest.raises(ModelError, match="takes floats"):
        check(foreign.build("model.pt", folder=tmp_path), "model.pt", PIXELS, 3)


def test_without_source_only_a_student_can_be_made(saved: tuple[nn.Module, Path]) -> None:
    model = nn.Sequential(foreign.build(str(saved[1])))
    foreign.refuse(model, "distill")
    foreign.refuse(saved[0], "prune")
    for stage in ("prune", "quantize", "train"):
        with pytest.raises(ModelError, match=rf"stage {stage} needs the model's source.*student"):
            foreign.refuse(model, stage)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("no model")
    for name, word in (("weights.pt", "state_dict"), ("text.pt", "not a TorchScript"),
                       ("none.pt", "No such file")):  # fmt: skip
        with pytest.raises(ModelError, match=word):
            foreign.build(name, folder=tmp_path)


class Dictionary(nn.Module):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["image"].float().mean((2, 3))


class Output(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": images.float().mean((2, 3))}


class Pixels(nn.Module):
    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.shape, self.kind = shape, dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), *self.shape, dtype=self.kind)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (Dictionary(), "fails on pixels uint8.*wrap it in your build function"),
        (Output(), r"returns dict, not logits.*wrap it"),
        (Pixels((7,)), r"float32 \[2, 7\], not float \[2, 3\]"),
        (Pixels((3, 4, 4)), r"\[2, 3, 4, 4\]"),
        (Pixels((3,), torch.int64), "int64"),
        (nn.Linear(28, 3), "fails on pixels"),
    ],
)
def test_a_model_of_another_shape_is_refused(model: nn.Module, word: str) -> None:
    with pytest.raises(ModelError, match=f"(?s){word}") as caught:
        check(model, "mine.py:build", PIXELS, 3)
    assert "forward(pixels)" in str(caught.value)
    check(Pixels((3,)), "mine.py:build", PIXELS, 3)


def test_a_model_that_takes_floats_is_told_of_the_recipes_input() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match=r"takes floats: .*`input: {value_range: 0\.\.1}`"):
        check(model, "mine.py:build", PIXELS, 3)


def test_weights_that_are_no_numbers_are_named() -> None:
    model = nn.Sequential(Pixels((3,)), nn.Linear(3, 3))
    nn.init.constant_(model[1].bias, float("nan"))
    with pytest.raises(ModelError, match=r"answers NaN .*: 1\.bias hold NaN"):
        check(model, "mine.py:build", PIXELS, 3)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1), nn.Identity()])
def test_probabilities_in_place_of_logits_are_noticed(last: nn.Module) -> None:
    model = nn.Sequential(Pixels((3,)), last)
    check(model, "mine.py:build", PIXELS, 3)
    assert any("Leave the softmax out" in said for said in notes_of(model)) == isinstance(
        last, nn.Softmax
    )


def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    """With transformers installed or without: the message says what to do."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    with pytest.raises(ModelError, match=r"pip install transformers==|config\.json and model"):
        huggingface.build(str(tmp_path), classes=3)


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ResNet saved by transformers itself."""
    transformers = torchvision_shim.retrying(huggingface._package)
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        num_channels=3, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
        layer_type="basic", num_labels=5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("hub") / "small"
    transformers.ResNetForImageClassification(config).eval().save_pretrained(folder)
    norm = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(norm))
    return folder


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_hugging_face_folder_answers_as_transformers_does(hub_folder: Path) -> None:
    model = huggingface.build("small", classes=5, channels=3, folder=hub_folder.parent).eval()
    pixels = PIXELS.expand(-1, 3, -1, -1)
    theirs = torchvision_shim.retrying(huggingface._package).AutoModelForImageClassification
    reference = theirs.from_pretrained(hub_folder).eval()
    mean = torch.tensor([0.5, 0.4, 0.3]).reshape(-1, 1, 1)
    with torch.no_grad():
        expected = reference(pixel_values=(pixels / 255.0 - mean) / 0.2).logits
        torch.testing.assert_close(model(pixels), expected, rtol=1e-4, atol=1e-5)
        scripted = torchscript.script(model, pixels[:1])
        torch.testing.assert_close(scripted(pixels), expected, rtol=1e-4, atol=1e-5)


def test_other_classes_get_a_new_head_and_one_channel_is_repeated(hub_folder: Path) -> None:
    model = huggingface.build(str(hub_folder), classes=3, channels=1)
    check(model, "small", PIXELS, 3)
    bare = hub_folder.parent / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((hub_folder / "config.json").read_text())
    check(huggingface.build(str(bare), classes=4), "bare", PIXELS, 4)
