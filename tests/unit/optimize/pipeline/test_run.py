"""The whole chain on a slice of real data, and everything that can interrupt it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
import torch

from optimize.errors import BudgetMissed, DataError, ModelError, RecipeError
from optimize.evaluation import accuracy
from optimize.evaluation.cost import parameters
from optimize.pipeline.finished import Finished, last_state
from optimize.pipeline.job import begin
from optimize.pipeline.stages import run_stages
from optimize.pruning.prune import widths
from optimize.recipe import schema
from optimize.report import example_file, formatting, page, report
from optimize.run import run
from optimize.tasks import registry
from optimize.tasks.base import Stage, State
from optimize.tasks.registry import read_recipe
from optimize.utils import torchscript
from tests.unit.optimize.conftest import SMALL

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "small.yaml").write_text(SMALL, encoding="utf-8")
    checked = read_recipe(folder / "small.yaml")
    return run(checked, folder / "artifacts" / "small", say=lambda line: None)


def state(artifact: Path, name: str) -> State:
    """The state after a stage of the chain."""
    before = None
    for folder in sorted((artifact / "stages").glob("[0-9][0-9]-*")):
        before = Finished(folder).load_state(before)
        if folder.name == name:
            return before
    raise AssertionError(f"there is no stage {name}")


def test_the_artifact_is_complete(artifact: Path) -> None:
    card = json.loads((artifact / "model.json").read_text())
    assert card["name"] == "small" and card["handler"] == "image_classifier"
    assert card["model"] == {
        "file": "model.pt",
        "quantized_engine": "fbgemm",
        "threads": 1,
        "batch_sizes": [1, 2, 3, 4],
    }
    assert card["input"]["size"] == [28, 28] and len(card["labels"]) == 10
    labels = json.loads((artifact / "samples" / "labels.json").read_text())
    assert len(labels) == 8 and all((artifact / "samples" / name).is_file() for name in labels)
    assert "unknown" in (artifact / "NOTICE").read_text() and "NOTICE" in card["files"]
    assert not list(artifact.rglob("*.tmp"))


def test_the_report_fits_its_schema(artifact: Path) -> None:
    schema = json.loads(report.SCHEMA.read_text())
    found = report.read(artifact)
    jsonschema.Draft202012Validator(schema).validate(found)
    assert [s["name"] for s in found["stages"]] == ["distill", "prune", "quantize"]
    assert [c["name"] for c in found["controls"]] == ["undistilled", "scratch"]
    del found["gate"]["drop"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(found)


def test_the_page_says_what_the_report_says(artifact: Path) -> None:
    found, text = report.read(artifact), (artifact / "report.html").read_text()
    assert text == page.render(found, example_file.read(artifact, found))
    for entry in (found["original"], *found["stages"], found["final"]):
        assert f"{entry['accuracy'] * 100:.2f}%" in text
        assert report.size(entry["bytes"]) in text
        assert formatting.milliseconds(entry["latency_ms"]["batch1_threads1"]["p50"]) in text
    assert found["command"] in text and found["command"].endswith("small.yaml")


def test_the_reports_numbers_come_out_again(artifact: Path) -> None:
    found = report.read(artifact)
    checked = read_recipe(artifact.parent.parent / "small.yaml")
    dataset = registry.load(checked.task).load_data(checked)
    torch.backends.quantized.engine = "fbgemm"
    model = torch.jit.load(artifact / "model.pt")
    with torch.inference_mode():
        right = (model(dataset.test.inputs).argmax(1) == dataset.test.targets).sum().item()
    assert found["final"]["accuracy"] == pytest.approx(right / len(dataset.test))
    assert found["final"]["bytes"] == (artifact / "model.pt").stat().st_size
    teacher = state(artifact, "00-train").model
    answers = accuracy.predict(teacher, dataset.test.inputs)
    hits = (answers.argmax(1) == dataset.test.targets).sum().item()
    assert found["original"]["accuracy"] == pytest.approx(hits / len(dataset.test))
    assert found["original"]["parameters"] == sum(p.numel() for p in teacher.parameters())
    assert found["gate"]["drop"] == pytest.approx((hits - right) / len(dataset.test))
    assert found["data"]["fingerprint"] == dataset.fingerprint()


def test_every_stage_did_its_work(artifact: Path) -> None:
    distilled, pruned, final = (
        state(artifact, name) for name in ("01-distill", "02-prune", "03-quantize")
    )
    before, after = widths(distilled.model), widths(pruned.model)
    assert list(before.values()) == [32, 32, 10] and list(after.values()) == [16, 16, 10]
    assert parameters(pruned.model) == report.read(artifact)["final"]["parameters"]
    operators = torchscript.operators(torchscript.load(artifact / "model.pt"))
    convolutions = (n for name, n in operators.items() if "conv" in name and "::" in name)
    assert sum(convolutions) == 2, operators
    assert final.engine == "fbgemm"


def test_a_killed_run_ends_as_an_uninterrupted_one(artifact: Path, tmp_path: Path) -> None:
    """Killed after `distill`: what a run leaves behind then is the first two folders."""
    checked = read_recipe(artifact.parent.parent / "small.yaml")
    other = tmp_path / "small"
    for name in ("00-train", "01-distill"):
        shutil.copytree(artifact / "stages" / name, other / "stages" / name)
    lines: list[str] = []
    run(checked, other, resume=True, say=lines.append)
    assert sum("kept" in line for line in lines) == 2
    assert (other / "model.pt").read_bytes() == (artifact / "model.pt").read_bytes()
    ours, theirs = report.read(other), report.read(artifact)
    for found in (ours, theirs):
        for entry in (found["original"], found["final"], *found["stages"]):
            del entry["latency_ms"]
        del found["created"], found["preregistration"]["at"], found["report_sha256"]
    assert ours == theirs


def test_a_finished_run_is_not_run_again(artifact: Path) -> None:
    checked = read_recipe(artifact.parent.parent / "small.yaml")
    before = (artifact / "report.json").stat().st_mtime_ns
    lines: list[str] = []
    run(checked, artifact, resume=True, say=lines.append)
    assert any("up to date" in line for line in lines)
    assert (artifact / "report.json").stat().st_mtime_ns == before


def test_an_interrupted_stage_loses_nothing_finished(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = read_recipe(artifact.parent.parent / "small.yaml")
    other = tmp_path / "small"
    shutil.copytree(artifact, other)
    shutil.rmtree(other / "stages" / "03-quantize")
    (other / "report.json").write_text("{}")

    def interrupt(*_: object) -> State:
        raise KeyboardInterrupt

    stages = registry.load(checked.task).stages
    monkeypatch.setitem(stages, "quantize", Stage(stages["quantize"].options, interrupt))
    with pytest.raises(KeyboardInterrupt):
        run(checked, other, resume=True, say=lambda line: None)
    assert (other / "model.pt").read_bytes() == (artifact / "model.pt").read_bytes()
    kept = sorted(p.name for p in (other / "stages").iterdir() if p.is_dir())
    assert kept == ["00-train", "01-distill", "02-prune", "controls"]


def test_a_missed_budget_keeps_the_artifact(artifact: Path, tmp_path: Path) -> None:
    other = tmp_path / "small"
    shutil.copytree(artifact, other)
    tight = read_recipe(artifact.parent.parent / "small.yaml", ["budget.min_agreement=1.0"])
    lines: list[str] = []
    with pytest.raises(BudgetMissed, match="agreement") as caught:
        run(tight, other, resume=True, say=lines.append)
    assert caught.value.exit_code == 3
    assert sum("kept" in line for line in lines) == 4  # stages do not depend on the budget
    found = report.read(other)
    assert found["gate"]["passed"] is False
    assert (other / "model.pt").is_file()
    # The test split had been measured under another budget, and the report says so.
    before = report.read(artifact)["preregistration"]
    assert before["earlier"] == []
    assert [one["digest"] for one in found["preregistration"]["earlier"]] == [before["digest"]]
    assert "min_agreement was 0" in found["gate"]["reason"]


def test_the_budget_is_fixed_before_the_test_split_is_measured(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = read_recipe(artifact.parent.parent / "small.yaml")
    other = tmp_path / "small"
    shutil.copytree(artifact / "stages", other / "stages")
    task = registry.load(checked.task)
    seen: list[str] = []

    def predict(model: object, data: object, split: str, what: str) -> object:
        seen.append(split)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(task), "predict", staticmethod(predict))
    with pytest.raises(KeyboardInterrupt):
        run(checked, other, resume=True, say=lambda line: None)
    assert seen == ["test"]
    (fixed,) = json.loads((other / "preregistration.json").read_text())["fixed"]
    assert fixed["digest"] == report.read(artifact)["preregistration"]["digest"]


LOADER = """\
import torch
from torch import nn

def loaders(count=90):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 3, 12, 20), generator=generator)
    images += (labels * 90)[:, None, None, None]
    images = images.to(torch.uint8)
    return {"train": (images[30:], labels[30:]), "test": (images[:30], labels[:30]),
            "labels": ["dark", "middle", "bright"]}

class Pixels(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, 2), nn.Linear(16, classes)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x / 255.0)).mean((2, 3)))

def build(classes):
    return Pixels(classes)

def wrong():
    return 3
"""

STRANGER = """\
name: stranger
task: image_classification
data: mine.py:loaders
model: mine.py:build
stages:
  - train: {epochs: 12, batch_size: 16, learning_rate: 0.05, flip: false}
  - quantize: {calibration: 60}
budget: {max_drop: 0.1}
"""


def stranger(tmp_path: Path, change: str = "", to: str = "") -> schema.Recipe:
    (tmp_path / "mine.py").write_text(LOADER)
    path = tmp_path / "stranger.yaml"
    path.write_text(STRANGER.replace(change, to) if change else STRANGER)
    return read_recipe(path)


def test_a_share_can_lose_less_than_all_of_it(tmp_path: Path) -> None:
    recipe = stranger(tmp_path, "max_drop: 0.1", "max_drop: 30")
    with pytest.raises(RecipeError, match=r"stranger\.yaml:8: budget: max_drop is a share"):
        run(recipe, tmp_path / "out", say=lambda line: None)


def test_a_floor_is_a_value_of_the_metric(tmp_path: Path) -> None:
    recipe = stranger(tmp_path, "max_drop: 0.1", "max_drop: 0.1, floor: 80")
    with pytest.raises(RecipeError, match=r"stranger\.yaml:8: budget: floor .* from 0.0 to 1.0"):
        run(recipe, tmp_path / "out", say=lambda line: None)


def test_what_nobody_has_trained_is_said(tmp_path: Path) -> None:
    change = "  - train: {epochs: 12, batch_size: 16, learning_rate: 0.05, flip: false}\n"
    recipe = stranger(tmp_path, change, "")
    random = dataclasses.replace(recipe, model=schema.Named("resnet", {"width": 8}, ("r.yaml", 4)))
    said: list[str] = []
    begin(random, tmp_path / "out", resume=False, say=said.append)
    assert any("warning: model resnet has random weights" in line for line in said)
    said.clear()
    meant = dataclasses.replace(
        random, random_weights=True, budget=schema.Budget(max_drop=0.9, floor=0.95)
    )
    with pytest.raises(BudgetMissed, match="accuracy of the original is"):
        run(meant, tmp_path / "out", say=said.append)
    found = report.read(tmp_path / "out")
    assert found["chance"] == pytest.approx(1 / 3)
    assert found["warnings"] and f"warning: {found['warnings'][0]}" in said
    assert not any("has random weights" in line for line in said)
    assert "not better than chance" in (tmp_path / "out" / "report.html").read_text()


def test_stages_of_an_earlier_recipe_are_not_mixed_in(tmp_path: Path) -> None:
    """What is left of a stage that the recipe has no more stands between those that are used."""
    with_prune = "  - prune: {ratio: 0.5, round_to: 8}\n  - quantize: {calibration: 60}"
    wide = stranger(tmp_path, "  - quantize: {calibration: 60}", with_prune)
    job = begin(wide, tmp_path / "out", resume=True, say=str)
    run_stages(job, tmp_path / "out" / "stages")
    job = begin(stranger(tmp_path), tmp_path / "out", resume=True, say=str)
    states = run_stages(job, tmp_path / "out" / "stages")
    (tmp_path / "out" / "stages" / "00-train" / "unknown").touch()
    kept = last_state(tmp_path / "out" / "stages", job.digest())
    assert kept is not None
    weight = states[-1].float_model.state_dict()["conv.weight"]
    assert torch.equal(kept.float_model.state_dict()["conv.weight"], weight)
    assert len(weight) == 16

    # A damaged stage runs again, and ends as it did.
    (tmp_path / "out" / "stages" / "01-quantize" / "state.pt").write_bytes(b"damaged")
    said: list[str] = []
    again = run_stages(dataclasses.replace(job, say=said.append), tmp_path / "out" / "stages")
    assert any("damaged" in line for line in said)
    inputs = job.data.test.inputs
    assert torch.equal(again[-1].model(inputs), states[-1].model(inputs))


def test_training_in_place_after_another_stage_is_kept(tmp_path: Path) -> None:
    stages = "  - quantize: {calibration: 60}"
    later = "  - train: {epochs: 2, batch_size: 16, learning_rate: 0.05, flip: false}"
    job = begin(stranger(tmp_path, stages, later), tmp_path / "out", resume=True, say=str)
    states = run_stages(job, tmp_path / "stages")
    loaded = run_stages(job, tmp_path / "stages")
    for name in ("model", "float_model", "original"):
        before, after = (getattr(s[-1], name).state_dict() for s in (states, loaded))
        assert torch.equal(before["conv.weight"], after["conv.weight"]), name


def test_a_strangers_model_and_data_need_no_edit_of_ours(tmp_path: Path) -> None:
    folder = run(stranger(tmp_path), tmp_path / "out", say=lambda line: None)
    found = report.read(folder)
    assert found["final"]["accuracy"] > 0.8
    card = json.loads((folder / "model.json").read_text())
    assert card["labels"] == ["dark", "middle", "bright"]
    assert card["input"]["size"] == [12, 20] and card["input"]["channels"] == 3


@pytest.mark.parametrize(
    ("change", "to", "error", "word"),
    [
        ("mine.py:build", "mine.py:missing", ModelError, "no function 'missing'"),
        ("mine.py:build", "none.py:build", ModelError, "not a file"),
        ("mine.py:build", "mine.py:wrong", ModelError, "not an nn.Module"),
        ("mine.py:loaders", "mine.py:wrong", DataError, "returned int: return a mapping"),
        ("data: mine.py:loaders", "data: {mine.py:loaders: {cuont: 1}}", RecipeError, "cuont"),
        ("data: mine.py:loaders", "data: nowhere", RecipeError, "no data set"),
        ("model: mine.py:build", "model: {resnet: {wdith: 8}}", RecipeError, "yaml:4: "),
        ("model: mine.py:build", "model: alexnet", RecipeError, "no architecture"),
        ("model: mine.py:build", "checkpoint: no.pt\nmodel: mine.py:build", ModelError, "no.pt"),
    ],
)
def test_what_a_user_names_wrongly_is_explained(
    tmp_path: Path, change: str, to: str, error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        run(stranger(tmp_path, change, to), tmp_path / "out", say=lambda line: None)
