"""What an artifact holds of single answers, and what a new one leaves of the former."""

from pathlib import Path

import pytest
import torch

from optimize.data.tensors import Rows, TensorData
from optimize.evaluation.judges import JUDGES
from optimize.pipeline import artifact
from optimize.pipeline.job import Job
from optimize.recipe.schema import Named, Recipe, ReportOptions
from optimize.report import example_file, report
from optimize.tasks.tensors import Tensors
from optimize.tasks.tensors_data import Answers, Problem
from tests.unit.optimize.report.reports import report as some_report


def job(judge: str, most: int, folder: Path) -> Job[Problem, Answers]:
    rows = Rows((torch.arange(8.0)[:, None],), (torch.tensor([0, 1] * 4),))
    problem = Problem(TensorData("d", "s", ("x",), ("y",), {"test": rows}), JUDGES[judge]())
    problem.built.outputs = ("y",)
    options = ReportOptions(examples=most)
    recipe = Recipe("r", "tensors", Named("d"), Named("m"), [], report=options)
    return Job(recipe, Tensors(), problem, folder)


def answers(of: Job[Problem, Answers], scale: float) -> Answers:
    return Answers((torch.linspace(-1, 1, 16).reshape(8, 2) * scale,), of.data)


@pytest.mark.parametrize("most", [0, 3])
def test_as_many_examples_as_the_recipe_says(most: int, tmp_path: Path) -> None:
    of = job("regression" if not most else "classification", most, tmp_path)
    found = artifact.compared(of, answers(of, 1.0), answers(of, 5.0), tmp_path)
    assert ("examples" in found) == (tmp_path / example_file.NAME).is_file() == bool(most)
    assert ("reliability" in found) == bool(most)  # of classes, not of numbers
    assert len(example_file.read(tmp_path, found)) == most
    if most:
        bins = found["reliability"]["final"]["bins"]
        assert len(bins) == 15 and sum(row["samples"] for row in bins) == 8


@pytest.mark.parametrize("most", [0, 3])
def test_a_new_artifact_leaves_no_examples_of_the_former(most: int, tmp_path: Path) -> None:
    of = job("classification", most, tmp_path)
    ready, folder = tmp_path / "ready", tmp_path / "artifact"
    for place in (ready, folder):
        place.mkdir()
    (folder / example_file.NAME).write_text("former")
    found = artifact.compared(of, answers(of, 1.0), answers(of, 5.0), ready)
    report.write(ready, some_report(**found))
    artifact.install(tmp_path, folder)
    assert (folder / example_file.NAME).is_file() == bool(most)
    assert len(example_file.read(folder, report.read(folder))) == most
