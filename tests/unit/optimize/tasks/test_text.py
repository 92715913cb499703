"""A user's own CSV through the whole text task, with labels that others gave: which library a
docstring documents, as its authors wrote and filed it."""

import csv
import dataclasses
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch

from optimize.errors import RecipeError
from optimize.recipe.schema import Named
from optimize.tasks import text
from optimize.tasks.base import Context, State
from optimize.tasks.registry import read_recipe
from tests.unit.handlers.text_artifact import encoder_folder

RECIPE = """
name: docstrings
task: text_classification
data:
  text_files: {path: docs.csv, text: body, label: library, max_length: 48, test: 0.3,
    validation: 0.1, metric: macro_f1}
model: bert
stages:
  - train: {epochs: 3, learning_rate: 0.0002, batch_texts: 8}
  - vocabulary: {rows: 4000}
  - prune: {heads: 10, neurons: 1280, texts: 32}
  - quantize: {calibration: 64}
"""


def docstrings(module: ModuleType, count: int) -> list[str]:
    """First paragraphs of functions' documentation, without what names the library."""
    found = []
    for name in sorted(dir(module)):
        text = inspect.getdoc(getattr(module, name)) or ""
        parts = [p for p in text.split("\n\n") if len(p.split()) > 8 and module.__name__ not in p]
        if parts:
            found.append(parts[0])
    return list(dict.fromkeys(found))[:count]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    encoder_folder()
    with (tmp_path / "docs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["body", "library"])
        for module in (numpy, torch):
            table.writerows([text, module.__name__] for text in docstrings(module, 120))
    (tmp_path / "docs.yaml").write_text(RECIPE)
    return tmp_path / "docs.yaml"


@pytest.mark.slow
def test_a_users_csv_is_learned_and_compressed(written: Path) -> None:
    kept = torch.backends.quantized.engine
    found = read_recipe(written)
    task = text.TextClassification()
    data = task.load_data(found)
    assert data.labels == ["numpy", "torch"]
    state = State.of(task.build_model(found, data))
    scores: list[dict[str, Any]] = []
    answered: list[torch.Tensor] = []
    try:
        for number, stage in enumerate(found.stages):
            context = Context(found, data, number, stage.name)
            state = task.stages[stage.kind].run(state, stage.options, context)
            answers = task.predict(state.model, data, "test", stage.name)
            scores.append(task.score(answers, data, "test"))
            answered.append(answers)
    finally:
        torch.backends.quantized.engine = kept
    assert scores[0]["macro_f1"] > 0.7 and task.metric(data).name == "macro_f1"
    assert scores[-1]["macro_f1"] > scores[0]["macro_f1"] - 0.1
    assert 0 <= scores[-1]["ece"] < 0.5
    shown = task.examples(answered[0], answered[-1], data, 3)
    assert len(shown) == 3
    for one in shown:
        assert one.kind == "text" and 20 < len(one.content) <= 200 and "[CLS]" not in one.content
        assert one.right in data.labels and one.change.startswith(f"probability of {one.right}: ")


def test_options_that_do_not_exist_are_named(written: Path) -> None:
    found = read_recipe(written)
    wrong = Named("text_files", {**found.data.options, "colour": "red"}, found.data.where)
    with pytest.raises(RecipeError, match="no option 'colour'"):
        text.load_data(wrong, found.folder, 0)
    with pytest.raises(RecipeError, match="no data set 'tweets'"):
        text.load_data(Named("tweets", {}, found.data.where), found.folder, 0)


def test_windows_longer_than_the_encoder_are_refused_with_the_reason(written: Path) -> None:
    found = read_recipe(written)
    task = text.TextClassification()
    data = dataclasses.replace(task.load_data(found), max_length=600)
    reason = r"docs\.yaml:7: data's max_length is 600 tokens, and this encoder has 512 positions"
    with pytest.raises(RecipeError, match=reason):
        task.build_model(found, data)
    longer = Named("text_files", {**found.data.options, "max_length": 600}, found.data.where)
    with pytest.raises(RecipeError, match="max_length is 600: from 8 to 512 tokens") as caught:
        text.load_data(longer, found.folder, 0)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("metric", "least"), [("accuracy", 0.5), ("macro_f1", 0.5), ("auroc", 0.5)]
)
def test_chance_is_known_of_every_metric(written: Path, metric: str, least: float) -> None:
    found = read_recipe(written, [f"data.text_files.metric={metric}"])
    task = text.TextClassification()
    data = task.load_data(found)
    level = task.chance(data)
    assert least <= level < 0.8
    exact = {"accuracy": data.test.targets.bincount().max().item() / len(data.test.targets)}
    assert level == pytest.approx(exact.get(metric, level))
