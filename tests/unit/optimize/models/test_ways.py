"""Every way of naming a model that docs/models.md lists, from a recipe to an artifact."""

import csv
import importlib
import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from deploy.adopt.adopt import adopt
from optimize.errors import ModelError
from optimize.evaluation import latency
from optimize.models.sources import huggingface
from optimize.pipeline import artifact
from optimize.report import report
from optimize.run import run
from optimize.tasks import registry
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript
from optimize.utils.torchvision_shim import retrying
from tests.unit.deploy.adopt import foreign

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

DOCS = Path(__file__).parents[4] / "docs" / "models.md"
NAMES = ["red", "green", "blue"]
# In these the processes that measure latency load the model too; elsewhere the kinds are the same.
MEASURED = ("model: path/to/file.py:build", "model: ./folder")

DATA = """
import torch

def data():
    labels = torch.arange(48) % 3
    images = torch.randint(0, 90, (48, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    images[torch.arange(48), labels] += 150
    images = images.to(torch.uint8)
    names = ["red", "green", "blue"]
    return {"train": (images[:24], labels[:24]), "test": (images[24:], labels[24:]),
            "labels": names}
"""
BUILD = """
from torch import nn
from parts import Network

def build(classes, width=8):
    return Network(width, classes)
"""
PARTS = """
import torch
from torch import nn

class Network(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, width, 3, 2), nn.Linear(width, classes)

    def forward(self, pixels):
        from functions import scaled
        return self.head(torch.relu(self.conv(scaled(pixels))).mean((2, 3)))
"""
FUNCTIONS = "def scaled(pixels):\n    return pixels.float() / 255.0\n"


def ways(title: str) -> list[str]:
    section = re.search(rf"(?s)^## {title}$(.*?)^## ", DOCS.read_text(), re.MULTILINE)
    assert section is not None
    return re.findall(r"`(model: [^`]+)`", section[1])


def transformers() -> Any:
    return retrying(huggingface._package)


def hub_model(labels: list[str]) -> Any:
    """A small ResNet of transformers, its batch norms in use."""
    torch.manual_seed(0)
    config = transformers().ResNetConfig(
        num_channels=3, embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1],
        layer_type="basic", id2label=dict(enumerate(labels)),
    )  # fmt: skip
    model = transformers().ResNetForImageClassification(config)
    model(torch.randn(16, 3, 32, 32))
    return model.eval()


def in_cache(hub: Path, name: str, model: Any) -> None:
    """Save a model as the hub's client keeps it."""
    place = hub / f"models--{name.replace('/', '--')}"
    revision = "0" * 40
    model.save_pretrained(place / "snapshots" / revision)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(revision)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the names in the docs stand for, and another working directory."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    files = {"data.py": DATA, "path/to/file.py": BUILD, "path/to/parts.py": PARTS,
             "path/to/functions.py": FUNCTIONS}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setitem(latency.measure.__kwdefaults__, "threads", (1,))
    return tmp_path


def measured_as(contestants: dict[str, Any], calls: Path) -> dict[str, Any]:
    return {
        name: {f"batch{n}_threads1": {"p50": 1.0, "p95": 1.0} for n in artifact.LATENCY_BATCHES}
        for name in contestants
    }


@pytest.mark.parametrize("way", ways("Images"))
def test_an_image_model(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trains, theirs = True, None
    if "folder" in way or "microsoft" in way:
        trains, theirs = False, hub_model(["Blue", "red", "GREEN"])
        theirs.save_pretrained(folder / "folder")
        if "microsoft" in way:
            constants = importlib.import_module("huggingface_hub.constants")
            in_cache(folder / "hub", "microsoft/resnet-18", theirs)
            monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if "classifier.pt" in way:
        trains, network = False, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
        body: nn.Module = network if "mean" in way else nn.Sequential(Floats(), network)
        example = torch.zeros(1, 3, 32, 32, dtype=torch.float if "mean" in way else torch.uint8)
        torchscript.save(torchscript.script(body.eval(), (example,)), folder / "classifier.pt")
    if "old.mar" in way:
        network = adopted(folder, scripted="mean" in way)
        trains = "mean" not in way
    (folder / "any.yaml").write_text(
        f"name: any\ntask: image_classification\ndata: data.py:data\n{way}\n"
        f"stages: [{'train: {epochs: 1, batch_size: 12}' if trains else ''}]\n"
        "budget: {max_drop: 0.9}\n"
    )
    if way not in MEASURED:
        monkeypatch.setattr(latency, "measure", measured_as)
    said: list[str] = []
    found = run(read_recipe(folder / "any.yaml"), Path("out"), say=said.append)
    assert report.read(found)["gate"]["passed"]
    data = registry.load("image_classification").load_data(read_recipe(folder / "any.yaml"))
    pixels = data.test.inputs[:5]
    with torch.no_grad():
        answers = torchscript.load(found / "model.pt")(pixels)
        assert answers.shape == (5, 3)
        if theirs is not None:  # in the data's order of labels
            expected = theirs(pixel_values=pixels / 127.5 - 1).logits[:, [1, 2, 0]]
            torch.testing.assert_close(answers, expected, atol=1e-4, rtol=1e-3)
            assert any("order of labels: red, green, blue" in line for line in said)
        if "mean" in way:
            torch.testing.assert_close(answers, network((pixels - 127.5) / 127.5))


ARCHIVED = PARTS.replace("self, width, classes", "self, width=8, classes=3")


def adopted(folder: Path, scripted: bool) -> nn.Sequential:
    """old.mar beside the recipe: TorchScript that takes floats, or a class with its weights.

    Returns the module that was scripted.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)).eval()
    model = {"serializedFile": "m.pt"}
    files: dict[str, bytes | str] = {"h.py": "def handle(data, context):\n    return data\n"}
    buffer = io.BytesIO()
    if scripted:
        torch.jit.save(torch.jit.script(network), buffer)
    else:
        model["modelFile"] = "network.py"
        files |= {"network.py": ARCHIVED, "functions.py": FUNCTIONS}
        state = {"conv.weight": torch.randn(8, 3, 3, 3), "conv.bias": torch.randn(8),
                 "head.weight": torch.randn(3, 8), "head.bias": torch.randn(3)}  # fmt: skip
        torch.save(state, buffer)
    made = foreign.write(folder, "raw", "h.py", {**files, "m.pt": buffer.getvalue()}, **model)
    sealed = adopt(made, folder / "store").archive
    assert sealed is not None
    sealed.path.replace(folder / "old.mar")
    return network


class Floats(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float() / 127.5 - 1.0


def test_a_finished_run_is_kept_until_its_code_or_weights_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from another working directory, by a relative --output."""
    monkeypatch.setattr(latency, "measure", measured_as)
    (folder / "stale.yaml").write_text(
        "name: stale\ntask: image_classification\ndata: data.py:data\n"
        "model: path/to/file.py:build\ncheckpoint: weights.pt\n"
        "stages: [quantize: {calibration: 16}]\nbudget: {max_drop: 0.9}\n"
    )

    def lines() -> str:
        said: list[str] = []
        run(read_recipe(folder / "stale.yaml"), Path("out"), resume=True, say=said.append)
        return "\n".join(said)

    def save(seed: int) -> None:
        torch.manual_seed(seed)
        state = {"conv.weight": torch.randn(8, 3, 3, 3), "conv.bias": torch.randn(8),
                 "head.weight": torch.randn(3, 8), "head.bias": torch.randn(3)}  # fmt: skip
        torch.save({"model": state}, folder / "weights.pt")

    def answers() -> Tensor:
        pixels = torch.arange(3 * 32 * 32).reshape(1, 3, 32, 32).to(torch.uint8)
        with torch.no_grad():
            found: Tensor = torchscript.load(Path("out") / "model.pt")(pixels)
        return found

    save(1)
    first = lines()
    assert "note: weights of weights.pt: from key 'model'" in first and "kept" not in first
    one = answers()
    assert "finished and up to date" in lines()
    save(2)
    again = lines()
    assert "up to date" not in again and "kept" not in again
    two = answers()
    assert not torch.allclose(one, two)
    text = FUNCTIONS.replace("255.0", "25.50")
    (folder / "path" / "to" / "functions.py").write_text(text)
    again = lines()
    assert "up to date" not in again and "kept" not in again
    assert not torch.allclose(answers(), two)


# Texts.

WORDS = [f"w{number}" for number in range(80)]


def reviews(folder: Path, labels: list[str]) -> list[str]:
    """A CSV of random words; returns its texts."""
    generator = random.Random(0)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(6, 20))) for _ in range(90)]
    with (folder / "texts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        table.writerows([text, labels[i % len(labels)]] for i, text in enumerate(texts))
    return texts


def fine_tuned(folder: Path, labels: list[str]) -> Any:
    """A folder as transformers saves a classifier of texts, and that model."""
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    torch.manual_seed(0)
    config = transformers().BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=48, id2label=dict(enumerate(labels)),
    )  # fmt: skip
    model = transformers().BertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return model


def text_recipe(folder: Path, way: str, stages: str, encoder: str = "") -> Path:
    (folder / "text.yaml").write_text(
        "name: text\ntask: text_classification\n"
        "data: {text_files: {path: texts.csv, text: text, label: label, max_length: 32, "
        f"test: 0.4, validation: 0.2{encoder}}}}}\n{way}\nstages: {stages}\n"
        "budget: {max_drop: 0.9}\n"
    )
    return folder / "text.yaml"


def of_texts(theirs: Any, folder: Path, texts: list[str]) -> Tensor:
    """transformers' own answers."""
    tokenizer = transformers().PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    cut = tokenizer([f"[CLS] {text} [SEP]" for text in texts], padding=True, return_tensors="pt")
    with torch.inference_mode():
        found: Tensor = theirs(cut["input_ids"], attention_mask=cut["attention_mask"]).logits
    return found


TEXT_BUILD = """
from pathlib import Path
from transformers import BertForSequenceClassification

def build():
    folder = Path(__file__).parents[2] / "folder"
    return BertForSequenceClassification.from_pretrained(folder, local_files_only=True)
"""


@pytest.mark.parametrize("way", ways("Texts"))
def test_a_text_model(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = fine_tuned(folder / "folder", ["Bad", "good"])
    texts = reviews(folder, ["good", "bad"])  # sorted, "bad" is first there too
    (folder / "path" / "to" / "file.py").write_text(TEXT_BUILD)
    stages = "[quantize: {calibration: 16}]" if way == "model: ./folder" else "[]"
    encoder = "" if "folder" in way else ", encoder: ./folder"
    if "classifier.pt" in way:
        torch.manual_seed(0)
        bag = nn.Sequential(nn.EmbeddingBag(90, 2)).eval()
        example = torch.ones(2, 4, dtype=torch.int32)
        torchscript.save(torchscript.script(bag, (example,)), folder / "classifier.pt")
    if way not in MEASURED[:1]:
        monkeypatch.setattr(latency, "measure", measured_as)
    kept = torch.backends.quantized.engine
    try:
        recipe = read_recipe(text_recipe(folder, way, stages, encoder))
        found = run(recipe, Path("out"), say=lambda line: None)
        data = registry.load(recipe.task).load_data(recipe)
        ids = data.test.inputs
        with torch.inference_mode():
            answers = torchscript.load(found / "model.pt")(ids)
            if "classifier.pt" in way:
                torch.testing.assert_close(answers, bag(ids))
                return
            model = registry.load(recipe.task).build_model(recipe, data).eval()
            used = [texts[i] for i in positions(data, texts, folder)]
            expected = of_texts(theirs, folder / "folder", used)
            torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=1e-4)
    finally:
        torch.backends.quantized.engine = kept
    assert (answers.argmax(1) == expected.argmax(1)).float().mean() > 0.9


def positions(data: Any, texts: list[str], folder: Path) -> list[int]:
    """Which of the texts the rows of the test split are."""
    tokenizer = Tokenizer.from_file(str(folder / "folder" / "tokenizer.json"))
    rows = {tuple(tokenizer.encode(text).ids): i for i, text in enumerate(texts)}
    return [rows[tuple(ids[ids > 3].tolist())] for ids in data.test.inputs]


def test_a_folder_whose_labels_are_not_the_datas_is_refused(folder: Path) -> None:
    fine_tuned(folder / "folder", ["urgent", "other"])
    reviews(folder, ["good", "bad"])
    recipe = read_recipe(text_recipe(folder, "model: ./folder", "[quantize]"))
    task = registry.load(recipe.task)
    data = task.load_data(recipe)
    with pytest.raises(ModelError, match=r"urgent, other.*bad, good.*`train` stage"):
        task.build_model(recipe, data)
    trained = read_recipe(text_recipe(folder, "model: ./folder", "[train: {epochs: 1}]"))
    assert isinstance(task.build_model(trained, data), nn.Module)


@pytest.mark.parametrize("kind", ["mpnet", "deberta-v2", "gpt2"])
def test_text_models_of_other_attention_are_refused_in_words(kind: str, folder: Path) -> None:
    fine_tuned(folder / "folder", ["bad", "good"])
    reviews(folder, ["good", "bad"])
    config = folder / "folder" / "config.json"
    config.write_text(config.read_text().replace('"model_type": "bert"', f'"model_type": "{kind}"'))
    recipe = read_recipe(text_recipe(folder, "model: ./folder", "[quantize]"))
    task = registry.load(recipe.task)
    with pytest.raises(ModelError, match=f"model_type is '{kind}';"):
        task.build_model(recipe, task.load_data(recipe))


def test_texts_cut_by_another_tokenizer_are_refused(folder: Path) -> None:
    fine_tuned(folder / "folder", ["bad", "good"])
    reviews(folder, ["good", "bad"])
    other = folder / "other" / "tokenizer.json"
    other.parent.mkdir()
    text = (folder / "folder" / "tokenizer.json").read_text()
    other.write_text(text.replace('"w7"', '"w_7"'))
    (other.parent / "config.json").write_text("{}")
    recipe = read_recipe(text_recipe(folder, "model: ./folder", "[quantize]", ", encoder: ./other"))
    task = registry.load(recipe.task)
    with pytest.raises(ModelError, match="folder has another"):
        task.build_model(recipe, task.load_data(recipe))
