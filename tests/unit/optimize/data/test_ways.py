"""Every way of bringing data that docs/data.md lists, from a recipe to the handler's answers.

The pictures are scikit-learn's digits, written in each form.
"""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from optimize.pipeline.artifact import _write_card, script
from optimize.pipeline.job import Job, begin
from optimize.pipeline.stages import run_stages
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript
from tests.unit.handlers.text_artifact import encoder_folder

DOCS = Path(__file__).resolve().parents[4] / "docs" / "data.md"
COUNT = 600
# These need packages or downloads; tests of their own read them.
ELSEWHERE = ("fashion_mnist", "imagenet_samples", "movie_reviews", "speech")


def ways(section: str) -> list[str]:
    """The `data:` values of a section's table."""
    text = DOCS.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert found and "data:" in found[0]
    return [way for way in found[1:] if way not in ELSEWHERE]


MINE = """\
import numpy as np
import torch
from pathlib import Path
from torch import nn
from torch.utils.data import DataLoader, Dataset
from PIL import Image

HERE = Path(__file__).parent


def arrays():
    held = np.load(HERE / "digits.npz")
    images, labels = torch.from_numpy(held["images"])[:, None], torch.from_numpy(held["labels"])
    return {"train": (images[120:], labels[120:]), "test": (images[:120], labels[:120]),
            "labels": list("0123456789")}


class Digits(Dataset):
    def __init__(self, start, end):
        held = np.load(HERE / "digits.npz")
        self.images, self.labels = held["images"][start:end], held["labels"][start:end]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Image.fromarray(self.images[index]), int(self.labels[index])


def dataset():
    return Digits(0, 600)


class Tensors(Digits):
    def __getitem__(self, index):
        return torch.from_numpy(self.images[index] / 255).float()[None], self.labels[index]


def loaders():
    return {"train": DataLoader(Tensors(120, 600), batch_size=50, shuffle=True),
            "test": Tensors(0, 120)}


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    def forward(self, pixels):
        return self.layers(pixels.float().mean(1) / 255)


def build(classes):
    return Net(classes)


def texts():
    kinds = {"good": "bright clear warm", "bad": "dull dark cold"}
    rows = [(f"{word} number {n} of the {n * 7} {word} days", kind)
            for kind, words in kinds.items() for word in words.split() for n in range(12)]
    return [text for text, _ in rows], [kind for _, kind in rows]
"""


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def save_to_disk(folder: Path, columns: dict[str, Any], features: dict[str, Any]) -> None:
    """What `datasets.save_to_disk` writes."""
    folder.mkdir(parents=True)
    table = pyarrow.table(columns)
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    (folder / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    )
    file = str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(file, "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in every form."""
    folder = tmp_path_factory.mktemp("ways")
    held = load_digits()
    images = (held.images[:COUNT] * 15.9).astype(np.uint8)
    labels = held.target[:COUNT].astype(np.int64)
    encoded = [png(image) for image in images]
    rows = []
    for number, (content, label) in enumerate(zip(encoded, labels.tolist(), strict=True)):
        part = "train" if number >= 120 else "test" if number >= 60 else "val"
        for name in (f"pictures/{label}", f"parted/{part}/{label}", "imagefolder"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{number:03d}.png").write_bytes(content)
        rows.append((f"pictures/{label}/{number:03d}.png", str(label), part))
    for name, head, strip in (
        ("labels.csv", ("path", "label", "part"), ""),
        ("imagefolder/metadata.csv", ("file_name", "label", "part"), "pictures"),
    ):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows((Path(p).name if strip else p, k, s) for p, k, s in rows)
    pictures = {"bytes": encoded, "path": [None] * COUNT}
    struct = pyarrow.StructArray.from_arrays(
        [
            pyarrow.array(pictures["bytes"], pyarrow.binary()),
            pyarrow.nulls(COUNT, pyarrow.string()),
        ],
        ["bytes", "path"],
    )
    pyarrow.parquet.write_table(
        pyarrow.table({"image": struct, "label": labels}), folder / "labels.parquet",
        row_group_size=100,
    )  # fmt: skip
    names = {"label": {"names": list("0123456789"), "_type": "ClassLabel"}}
    chosen = np.arange(COUNT) >= 120
    for part, which in (("train", chosen), ("test", ~chosen)):
        columns = {"image": struct.filter(pyarrow.array(which)), "label": labels[which]}
        save_to_disk(folder / "saved" / part, columns, names)
    np.savez(folder / "digits.npz", images=images, labels=labels)
    (folder / "mine.py").write_text(MINE)
    scope: dict[str, Any] = {"__file__": str(folder / "mine.py")}
    exec(MINE, scope)
    texts, kinds = scope["texts"]()
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts, "label": kinds}), folder / "reviews.parquet"
    )
    numbers = [int(kind == "good") for kind in kinds]
    save_to_disk(
        folder / "saved_texts" , {"text": texts, "label": numbers},
        {"label": {"names": ["bad", "good"]}},
    )  # fmt: skip
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, kinds, strict=True)])
    return folder


RECIPE = """\
name: way
task: image_classification
data: {way}
model: mine.py:build
stages:
  - train: {{epochs: 10, batch_size: 16, learning_rate: 0.5, flip: false}}
"""


def started(folder: Path, way: str, recipe: str = RECIPE) -> tuple[Job[Any, Any], list[str]]:
    file = folder / "way.yaml"
    file.write_text(recipe.format(way=way))
    said: list[str] = []
    return begin(read_recipe(file), folder / "out", resume=False, say=said.append), said


@pytest.mark.parametrize("way", ways("Pictures"))
def test_pictures(place: Path, tmp_path: Path, way: str) -> None:
    job, said = started(place, way)
    data = job.data
    assert data.labels == list("0123456789") and data.test.inputs.shape[1:] == (1, 8, 8)
    assert data.train is not None and len(data.train) + len(data.test) <= COUNT
    assert data.fingerprint() == started(place, way)[0].data.fingerprint()
    final = run_stages(job, tmp_path / "stages")[-1]
    answers = job.task.predict(final.model, data, "test", "test")
    assert job.task.score(answers, data, "test")["accuracy"] > 0.8
    torchscript.save(script(final, job.task.calls(data, 1)[0]), tmp_path / "model.pt")
    _write_card(job, final, tmp_path)
    served = job.task.from_files(tmp_path, data, answers)
    assert served is not None and served["agreement"] == 1.0 and not served["refused"]
    loose = "mine.py" in way or "npz" in way
    assert served["kind"] == ("tensors written as PNG" if loose else "files")
    assert any("came as tensors" in line for line in said) == (loose and way != "mine.py:dataset")


TEXTS = """\
name: way
task: text_classification
data: {way}
model: bert
stages: [train]
"""


@pytest.mark.parametrize("way", ways("Texts"))
def test_texts(place: Path, way: str) -> None:
    encoder_folder()
    job, _ = started(place, way, TEXTS)
    assert job.data.labels == ["bad", "good"]
    assert job.data.count("train") > 30 and job.data.count("test") >= 4
    assert job.data.train.inputs.dtype == torch.int32


@pytest.mark.parametrize("way", ways("Speech"))
def test_recordings(place: Path, way: str) -> None:
    import soundfile

    words = ["one two", "three four", "five six", "seven eight", "nine ten", "eleven twelve"]
    for number, _ in enumerate(words):
        soundfile.write(place / f"{number}.wav", np.zeros(1600, np.float32), 16000)
    listing = "".join(f"{number}.wav\t{text}\n" for number, text in enumerate(words))
    (place / "listing.tsv").write_text(listing)
    with (place / "manifest.csv").open("w", newline="") as file:
        rows = [(f"{number}.wav", text) for number, text in enumerate(words)]
        csv.writer(file).writerows([("path", "sentence"), *rows])
    recipe = TEXTS.replace("text_classification", "speech_recognition").replace("bert", "whisper")
    job, _ = started(place, way, recipe.replace("[train]", "[]"))
    assert job.data.count("validation") + job.data.count("test") == len(words)
