"""Recipes with every option of `prune` and `quantize`, on a slice of real data."""

import json
from pathlib import Path

import jsonschema
import pytest

from optimize.errors import DataError, RecipeError
from optimize.recipe import schema
from optimize.report import report
from optimize.run import run
from optimize.tasks.registry import read_recipe

HEAD = """\
name: options
task: image_classification
data:
  fashion_mnist: {limit: 1200, validation: 300}
model:
  convnet: {widths: [32, 32], strides: [2, 2]}
stages:
"""
TRAIN = "  - train: {epochs: 2, batch_size: 64, learning_rate: 0.05}\n"
TAIL = "budget: {max_drop: 0.9}\n"


def read(folder: Path, stages: str, head: str = HEAD) -> schema.Recipe:
    (folder / "options.yaml").write_text(head + stages + TAIL, encoding="utf-8")
    return read_recipe(folder / "options.yaml")


@pytest.mark.slow
def test_every_option_does_its_work_and_is_reported(tmp_path: Path) -> None:
    stages = """\
  - prune:
      ratio: 0.5
      importance: taylor
      iterations: 2
      round_to: 8
      sensitivity: [0.5]
      sensitivity_samples: 100
      recover: {epochs: 1, batch_size: 64, learning_rate: 0.05, patience: 3}
  - quantize:
      calibration: 64
      max_drop: 0.5
      sensitivity: true
      recover: {epochs: 0.5, batch_size: 64, learning_rate: 0.005}
"""
    said: list[str] = []
    folder = run(read(tmp_path, TRAIN + stages), tmp_path / "out", say=said.append)
    found = report.read(folder)
    schema = json.loads(report.SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate(found)
    prune, quantize = (stage["details"] for stage in found["stages"])
    assert prune["widths_before"] == {"body.0": 32, "body.3": 32, "body.8": 10}
    assert prune["widths"] == {"body.0": 16, "body.3": 16, "body.8": 10}
    assert {row["layer"] for row in prune["sensitivity"]} == {"body.0", "body.3"}
    assert len(prune["training"]) == 2 and prune["training"][0]["validation"]
    assert quantize["training"]["loss"] and quantize["trials"][0]["kept"] == 0
    assert len(quantize["sensitivity"]) == 3
    assert any("drop" in line and "validation" in line for line in said)
    assert "details" not in found["final"]


@pytest.mark.slow
def test_single_weights_are_said_to_buy_no_speed(tmp_path: Path) -> None:
    stages = """\
  - prune:
      structure: weights
      ratio: 0.8
      scope: global
      recover: {epochs: 0.5, batch_size: 64, learning_rate: 0.02}
"""
    said: list[str] = []
    folder = run(read(tmp_path, TRAIN + stages), tmp_path / "out", say=said.append)
    found = report.read(folder)
    (stage,) = found["stages"]
    assert any("no faster" in line for line in said)
    assert any("no faster" in note for note in stage["details"]["notes"])
    assert stage["bytes"] < 0.5 * found["original"]["bytes"]
    assert max(stage["details"]["zeros"].values()) > 0.7


@pytest.mark.parametrize(
    ("stages", "error", "line", "word"),
    [
        ("  - prune: {keep: [body.77]}\n", RecipeError, 8, "body.77"),
        ("  - train:\n  - quantize: {keep: [nowhere]}\n", RecipeError, 9, "nowhere"),
        ("  - distill: {patience: 2}\n", DataError, None, "validation"),
    ],
)
def test_what_fits_the_recipe_but_not_the_model_is_explained_with_its_line(
    tmp_path: Path, stages: str, error: type[Exception], line: int | None, word: str
) -> None:
    head = HEAD.replace(", validation: 300", ", validation: 0") if error is DataError else HEAD
    short = stages.replace("- train:\n", "- train: {epochs: 0.05}\n")
    with pytest.raises(error, match=word) as caught:
        run(read(tmp_path, short, head), tmp_path / "out", say=lambda said: None)
    if line is not None:
        assert str(caught.value).startswith(f"{tmp_path / 'options.yaml'}:{line}: ")


BAD: list[tuple[str, str, str]] = [
    ("prune", "{ratio: -0.5}", "0 or more"),
    ("prune", "{importance: taylr}", "taylor"),
    ("prune", "{structure: blocks}", "weights"),
    ("prune", "{structure: weights, importance: taylor}", "leave importance out"),
    ("prune", "{iterations: 0}", "start at 1"),
    ("prune", "{samples: 0}", "start at 1"),
    ("prune", "{keep: body.0}", "list"),
    ("prune", "{keep: [1]}", "text"),
    ("prune", "{sensitivity: [1.5]}", "between 0 and 1"),
    ("prune", "{sensitivity: 0.5}", "list"),
    ("prune", "{sensitivity_samples: 0}", "1 or more"),
    ("prune", "{recover: {patience: 1.5}}", "whole number"),
    ("prune", "{recover: {precision: int4}}", "bf16"),
    ("quantize", "{method: int4}", "static_int8"),
    ("quantize", "{ranges: percentile}", "entropy"),
    ("quantize", "{equalize: 2}", "between 0 and 1"),
    ("quantize", "{equalize: true}", "number"),
    ("quantize", "{max_drop: 3}", "0.01 is one point"),
    ("quantize", "{fallback: fp64}", "bf16"),
    ("quantize", "{method: bf16, ranges: minmax}", "belongs to method static_int8"),
    ("quantize", "{method: weight_only_int8, equalize: 0.5}", "belongs to method static_int8"),
    ("quantize", "{method: dynamic_int8, recover: {epochs: 1}}", "trains for static_int8"),
    ("quantize", "{sensitivity: [1]}", "true or false"),
    ("quantize", "{calibrate: 5}", "calibration"),
    ("train", "{patience: -1}", "0 or more"),
    ("train", "{precision: 16}", "bf16"),
    ("train", "{checkpoint_seconds: soon}", "number"),
    ("distill", "{alpha: 2}", "alpha between 0 and 1"),
    ("distill", "{temperature: 0}", "temperature"),
]


@pytest.mark.parametrize(("stage", "options", "word"), BAD, ids=[f"{s} {o}" for s, o, _ in BAD])
def test_a_bad_option_is_refused_with_its_line_and_what_to_write(
    tmp_path: Path, stage: str, options: str, word: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, f"  - {stage}: {options}\n")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'options.yaml'}:8: ") and word in message, message
