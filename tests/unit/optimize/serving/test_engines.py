"""The race at the end of a run: nothing here depends on who wins it."""

import json
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deploy.archive import mar
from optimize.errors import ExportRefused, RecipeError
from optimize.evaluation import environment
from optimize.report import engines as shown
from optimize.report import page
from optimize.report import report as evidence
from optimize.run import run
from optimize.serving import engines, race
from optimize.tasks.registry import read_recipe
from optimize.utils import files

RECIPE = """\
name: raced
task: image_classification
data: {fashion_mnist: {limit: 700, validation: 100}}
model: {convnet: {widths: [8, 16], strides: [2, 2]}}
stages:
  - train: {epochs: 1, batch_size: 64, learning_rate: 0.05}
  - quantize: {calibration: 32}
budget: {max_drop: 0.9}
# Whoever is fastest serves, TorchScript only where it is that by itself.
serving: {batch_size: 2, engines: [openvino-int8, onnx], engine_gain: 1.0}
"""
SCHEMA = json.loads(Path(page.__file__).with_name("report.schema.json").read_text())


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("onnxscript", "onnxruntime", "openvino"):
        pytest.importorskip(package)
    path = tmp_path_factory.mktemp("recipe") / "raced.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def artifact(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(environment.VARIABLE, raising=False)
        patch.setattr(race, "ROUNDS", 2)
        return run(read_recipe(recipe, []), tmp_path_factory.mktemp("out"), say=lambda _: None)


def read(artifact: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact / name).read_text())
    return found


def forget_race(artifact: Path) -> None:
    report = evidence.read(artifact)
    del report["engines"]
    evidence.write(artifact, report)


def test_the_report_holds_the_race_and_its_choice(artifact: Path) -> None:
    report = read(artifact, "report.json")
    jsonschema.validate(report, SCHEMA)
    found = report["engines"]
    assert set(found["candidates"]) == {"torchscript", "openvino-int8", "onnx"}
    times = {name: entry["milliseconds"] for name, entry in found["candidates"].items()}
    assert all(set(ms) == {"batch1", "batch2"} for ms in times.values())
    assert found["served"] == min(times, key=lambda name: times[name]["batch2"])
    assert found["candidates"][found["served"]]["outcome"] == "serves"
    assert [e["outcome"] for e in found["candidates"].values()].count("serves") == 1


def test_card_and_digests_name_what_was_chosen(artifact: Path) -> None:
    report, card = read(artifact, "report.json"), read(artifact, "model.json")
    found = report["engines"]
    listed = card["model"].get("alternatives", [])
    assert listed == ([] if found["served"] == race.TORCHSCRIPT else [found["file"]])
    for name, digest in report["files"].items():
        assert files.sha256(artifact / name) == digest
    kept = [p.relative_to(artifact).as_posix() for p in (artifact / "engines").rglob("*.*")]
    assert sorted(kept) == sorted(name for name in report["files"] if name.startswith("engines/"))


def test_one_artifact_gives_one_archive(artifact: Path, tmp_path: Path) -> None:
    first, second = (mar.seal(artifact, tmp_path / name) for name in "ab")
    assert first.sha256 == second.sha256
    with zipfile.ZipFile(first.path) as packed:
        for name in read(artifact, "model.json")["model"].get("alternatives", []):
            assert packed.read(name) == (artifact / name).read_bytes()
    alone = mar.seal(artifact, tmp_path / "c", engines=("torchscript",))
    with zipfile.ZipFile(alone.path) as packed:
        assert not [name for name in packed.namelist() if name.startswith("engines/")]
        assert "alternatives" not in json.loads(packed.read("model.json"))["model"]


def test_a_finished_artifact_is_not_raced_again(
    artifact: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE)
    before = (artifact / "report.json").read_bytes()
    run(read_recipe(recipe, []), artifact, resume=True, say=lambda _: None)
    assert (artifact / "report.json").read_bytes() == before


def test_what_cannot_be_raced_is_said(
    artifact: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(engines.candidates, "missing", lambda name: f"not installed: {name}")
    forget_race(artifact)
    said: list[str] = []
    run(read_recipe(recipe, []), artifact, resume=True, say=said.append)
    report = read(artifact, "report.json")
    jsonschema.validate(report, SCHEMA)
    assert report["engines"]["reason"] == engines.NONE_THERE
    assert any("no other runtime is installed" in line for line in said)
    assert not (artifact / "engines").exists()
    assert "alternatives" not in read(artifact, "model.json")["model"]
    assert not [name for name in report["files"] if name.startswith("engines/")]
    assert shown.sentence(report).startswith("TorchScript serves: no other runtime")
    # Once one is installed, the finished artifact is raced after all.
    monkeypatch.undo()
    monkeypatch.delenv(environment.VARIABLE)
    run(read_recipe(recipe, []), artifact, resume=True, say=said.append)
    assert "candidates" in read(artifact, "report.json")["engines"]


def test_a_race_that_fails_leaves_the_artifact_whole(
    artifact: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(subject: object) -> None:
        raise ValueError("a converter's\nown words")

    monkeypatch.delenv(environment.VARIABLE)
    monkeypatch.setattr(engines.candidates, "Maker", fail)
    forget_race(artifact)
    run(read_recipe(recipe, []), artifact, resume=True, say=lambda _: None)
    found = read(artifact, "report.json")["engines"]
    assert found["reason"] == "the race failed: ValueError: a converter's"
    assert (found["served"], found["file"]) == ("torchscript", "model.pt")


@pytest.mark.parametrize(
    ("times", "fastest"),
    [
        ({"torchscript": 1.0, "onnx": 0.92, "openvino": 0.95}, []),
        ({"torchscript": 1.0, "onnx": 0.6, "openvino": 0.5}, ["openvino", "onnx"]),
        ({"torchscript": 1.1, "onnx": 1.0}, ["onnx"]),
    ],
)
def test_only_a_tenth_more_speed_counts(times: dict[str, float], fastest: list[str]) -> None:
    by_batch = {name: {"batch1": 9.0, "batch4": ms} for name, ms in times.items()}
    assert race.order(by_batch, "batch4", 1.1) == fastest


@pytest.mark.parametrize(
    ("served", "measured", "agreement", "message"),
    [
        (0.9, 0.89, 0.99, None),
        (0.9, 0.88, 0.99, r"accuracy drops by 0\.0250 in it, 0\.015 is allowed"),
        (0.9, 0.9, 0.97, r"agrees on 0\.970, 0\.98 is asked for"),
    ],
)
def test_a_candidate_keeps_the_artifacts_budget(
    served: float, measured: float, agreement: float, message: str | None
) -> None:
    from optimize.evaluation.metrics import ACCURACY
    from optimize.export.formats.interface import INT8

    def evaluated(runs: dict[str, Any], limit: int | None = None) -> dict[str, Any]:
        value = runs["model"]()
        return {"accuracy": value, "samples": 1000, "agreement": agreement,
                "agreement_samples": 1000}  # fmt: skip

    exportable: Any = type("E", (), {"metric": ACCURACY, "evaluate": staticmethod(evaluated),
                                     "__iter__": lambda self: iter([Named()])})()  # fmt: skip
    runners: Any = {"onnx-int8": lambda: measured, "torchscript": lambda: served}
    entry, gate = race.Entry(""), race.Gate(drop=0.005, max_drop=0.015, min_agreement=0.98)
    judge = (exportable, runners, "onnx-int8", INT8, gate, float("inf"), entry)
    if message is None:
        race._judge(*judge)
    else:
        with pytest.raises(ExportRefused, match=message):
            race._judge(*judge)
    assert entry.measured["served_drop"] == pytest.approx(served - measured)
    with pytest.raises(ExportRefused, match="no time was left"):
        race._judge(*judge[:5], 0.0, entry)


class Named:
    name = "model"


def test_an_unknown_engine_is_a_wrong_recipe(recipe: Path) -> None:
    with pytest.raises(RecipeError, match=r"serving: engines: there is no 'tflite'; a list"):
        read_recipe(recipe, ["serving.engines=[tflite]"])
    with pytest.raises(RecipeError, match=r"serving.engines must be one of auto"):
        read_recipe(recipe, ["serving.engines=fast"])
    assert read_recipe(recipe, ["serving.engines=none"]).serving.raced() == ()
    assert "onnx-int8" in read_recipe(recipe, ["serving.engines=auto"]).serving.raced()
