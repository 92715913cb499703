"""A first recipe for a user's model and data: it runs, or nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
import yaml

from optimize.draft import data, pixels
from optimize.draft.asked import Asked
from optimize.draft.draft import draft
from optimize.errors import OptimizeError
from optimize.evaluation import latency
from optimize.recipe.reader import Loader
from optimize.recipe.schema import Named
from optimize.run import run
from optimize.tasks import registry
from tests.unit.optimize.draft import made


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are measured for real, on one thread: no test here asserts a time."""
    monkeypatch.setitem(latency.measure.__kwdefaults__, "threads", (1,))


CHECK = jsonschema.Draft202012Validator(registry.json_schema())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with models and data of every kind."""
    folder = tmp_path_factory.mktemp("mine")
    made.pictures(folder / "levels")
    made.network(folder)
    made.table(folder / "houses.csv")
    made.reviews(folder / "reviews.csv")
    made.bert(folder / "tiny")
    (folder / "table_net.py").write_text(made.TABLE_NET)
    values = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    np.savez(folder / "arrays.npz", features=values, label=(values[:, 0] > 0).astype(np.int64))
    (folder / "two.py").write_text(made.TABLE_NET.replace("16, 1), nn.Flatten(0)", "16, 2)"))
    return folder


def drafted(place: Path, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> tuple[Path, list[str]]:
    """The recipe that answers lead to, and what was said."""
    monkeypatch.chdir(place)
    said: list[str] = []
    asked = Asked(**{"name": f"{answers['data'].partition('.')[0]}-{len(answers)}", **answers})
    path = draft(asked, Path(), said.append)
    return place / path, said


def runs(path: Path, output: Path) -> dict[str, Any]:
    """The report of the recipe's artifact."""
    shown = yaml.load(path.read_text(), Loader)
    CHECK.validate(shown)
    assert path.read_text().startswith("# yaml-language-server: $schema=")
    lines: list[str] = []
    run(registry.read_recipe(path), output, say=lines.append)
    found: dict[str, Any] = json.loads((output / "report.json").read_text())
    assert (output / "model.pt").is_file() and found["gate"]["passed"]
    return found


@pytest.mark.slow
def test_pictures_and_a_network_of_ones_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = drafted(
        place, monkeypatch, data="levels", model="net.py", checkpoint="net.pt", max_drop=0.2
    )
    assert said[0] == "data   60 pictures in 3 classes: bright 20, dark 20, medium 20"
    assert said[2].endswith("4 tensors, 499 numbers under the key 'model'")
    assert said[3].startswith("input  value_range 0..1; 100% of 60 pictures")
    shown = yaml.load(path.read_text(), Loader)
    assert shown["model"] == "net.py:Brightness" and shown["input"] == {"value_range": "0..1"}
    assert shown["stages"] == ["quantize"], "a model that answers right is not trained"
    report = runs(path, tmp_path / "out")
    assert report["original"]["accuracy"] == 1.0
    with pytest.raises(OptimizeError, match="is there already"):
        drafted(
            place, monkeypatch, data="levels", model="net.py", checkpoint="net.pt", max_drop=0.2
        )


def test_classes_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made.pictures(tmp_path / "levels")
    made.network(tmp_path)
    saved = torch.load(tmp_path / "net.pt", weights_only=True)
    for part in ("weight", "bias"):  # bright, dark, medium -> dark, medium, bright
        saved["model"][f"head.{part}"] = saved["model"][f"head.{part}"][[1, 2, 0]]
    torch.save(saved, tmp_path / "turned.pt")
    seen = data.look("levels", Path())
    model = Named("net.py:Brightness")
    assert pixels.find(seen, model, "net.pt", Path()).warning is None
    warning = pixels.find(seen, model, "turned.pt", Path()).warning
    assert warning and "another order than bright, dark, medium" in warning
    assert "no better than chance (33%)" in warning


@pytest.mark.slow
def test_texts_and_a_hugging_face_folder(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = drafted(place, monkeypatch, data="reviews.csv", model="tiny", max_drop=0.9)
    shown = yaml.load(path.read_text(), Loader)
    options = {"path": "reviews.csv", "text": "review", "label": "sentiment", "max_length": 64}
    assert shown["data"] == {"text_files": options}
    assert shown["model"] == {"bert": {"path": "./tiny"}}
    assert shown["stages"] == ["train", "quantize"], "the head is new"
    assert runs(path, tmp_path / "out")["data"]["labels"] == ["neg", "pos"]


@pytest.mark.slow
def test_numbers_and_a_network_of_ones_own(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = drafted(place, monkeypatch, data="arrays.npz", model="two.py:build", max_drop=0.9)
    assert yaml.load(path.read_text(), Loader)["stages"] == ["train", "quantize"]
    assert runs(path, tmp_path / "out")["metric"]["name"] == "accuracy"


def test_a_table_of_numbers(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = drafted(place, monkeypatch, data="houses.csv", model="table_net.py")
    shown = yaml.load(path.read_text(), Loader)
    assert shown["data"] == {"tensors": {"file": "houses.csv", "targets": ["price"]}}
    assert (shown["model"], shown["metric"]) == ("table_net.py:build", "regression")
    CHECK.validate(shown)


def test_size_matters(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = made.TABLE_NET.replace("16", "256")
    (place / "wide.py").write_text(wide)
    path, _ = drafted(place, monkeypatch, data="houses.csv", model="wide.py", goal="size", name="a")
    shown = yaml.load(path.read_text(), Loader)
    assert shown["stages"][1] == {"prune": {"ratio": 0.25, "recover": {"epochs": 2}}}
    assert shown["budget"] == {"max_drop": 0.01, "objective": "size"}
    CHECK.validate(shown)


def test_a_size_that_only_the_network_knows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last layer takes 32 x 32 pictures, and the folder holds 16 x 16 ones."""
    fixed = made.NET.replace("self.conv(x).mean((2, 3))", "self.conv(x).flatten(1)")
    (place / "fixed.py").write_text(fixed.replace("nn.Linear(16, 3)", "nn.Linear(16 * 900, 3)"))
    path, _ = drafted(place, monkeypatch, data="levels", model="fixed.py", name="fixed")
    shown = yaml.load(path.read_text(), Loader)
    assert shown["input"]["size"] == 32
    assert shown["stages"][0] == "train"


REFUSED: dict[str, tuple[Callable[[Path], None], dict[str, str], int, str]] = {
    "no data": (lambda p: None, {"data": "none", "model": "net.py"}, 4, "there is no none"),
    "one class": (
        lambda p: (p / "one" / "cat").mkdir(parents=True),
        {"data": "one", "model": "net.py"},
        4,
        "no pictures by class: a classifier needs two folders",
    ),
    "weights alone": (
        lambda p: None,
        {"data": "levels", "model": "net.pt"},
        5,
        "--model model.py:build --checkpoint net.pt",
    ),
    "no such column": (
        lambda p: None,
        {"data": "houses.csv", "model": "table_net.py", "target": "cost"},
        4,
        "there are width, depth, age, weight, price",
    ),
    "another's weights": (
        lambda p: None,
        {"data": "houses.csv", "model": "table_net.py", "checkpoint": "net.pt"},
        5,
        "does not fit the model",
    ),
    "no task": (
        lambda p: (p / "load.py").write_text("def load(): ...\n") and None,
        {"data": "load.py:load", "model": "net.py"},
        2,
        "say which with --task",
    ),
}


@pytest.mark.parametrize("title", REFUSED)
def test_what_cannot_be_is_said_and_nothing_is_written(
    place: Path, monkeypatch: pytest.MonkeyPatch, title: str
) -> None:
    make, answers, code, words = REFUSED[title]
    make(place)
    before = sorted(place.glob("*.yaml"))
    with pytest.raises(OptimizeError, match=words) as caught:
        drafted(place, monkeypatch, **answers, name="refused")
    assert caught.value.exit_code == code
    assert sorted(place.glob("*.yaml")) == before and not list(place.glob("*.tmp"))
