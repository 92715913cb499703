"""A model of two inputs and one number a row as the exporters see it."""

import numpy
import pytest
import torch

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.formats.interface import Limits
from optimize.export.subject import Subject
from optimize.export.subjects import tensors
from optimize.tasks.registry import read_recipe
from optimize.tasks.tensors import Tensors

RECIPE = """
name: case
task: tensors
data: {tensors: {file: rows.npz, targets: [price]}}
model: {mlp: {widths: [8], embedding: 2}}
metric: regression
stages: []
"""


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("rows")
    random = numpy.random.default_rng(0)
    sizes, grades = random.normal(size=(120, 3)), random.integers(0, 4, size=(120, 2))
    numpy.savez(folder / "rows.npz", sizes=sizes, grades=grades, price=sizes[:, 0] + grades[:, 0])
    (folder / "case.yaml").write_text(RECIPE)
    recipe, task = read_recipe(folder / "case.yaml"), Tensors()
    problem = task.load_data(recipe)
    (only,) = tensors.make(task.build_model(recipe, problem), problem).subjects
    return only


def test_a_module_of_any_number_of_inputs_is_captured_with_free_rows(subject: Subject) -> None:
    assert len(subject.inputs) == 2
    assert len(subject.unbounded()) == 1  # forward(*inputs) has one parameter
    shapes = subject.unbounded()
    program = torch.export.export(subject.module, subject.pieces[0], dynamic_shapes=shapes)
    captured = program.module()

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        return [captured(*inputs).detach()]

    errors = check.parity(subject, run, Limits())
    assert set(errors) == {"batch 1", "batch 2", "batch 3", "batch 8"}
    assert max(errors.values()) < 1e-5


def test_one_number_a_row_is_compared_row_by_row(subject: Subject) -> None:
    assert subject(*subject.pieces[0])[0].dim() == 1

    def wrong(*inputs: torch.Tensor) -> list[torch.Tensor]:
        answers = subject(*inputs)[0].clone()
        answers[-1] += 10
        return [answers]

    with pytest.raises(ExportRefused, match="differs from the module"):
        check.parity(subject, wrong, Limits())
