"""Models of tensors: one module of named inputs and outputs."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data.tensors import Rows
from optimize.errors import DataError
from optimize.evaluation.parity_judge import Parity
from optimize.export import source
from optimize.export.subject import Axis, Exportable, Subject
from optimize.recipe.schema import Recipe
from optimize.tasks.tensors import Tensors
from optimize.tasks.tensors_data import Answers, Problem, answers_of
from optimize.tasks.tensors_stages import cut

SERVED = True
BATCH = 8
SAMPLES = 2000
CALIBRATION = 256
_PIECES = ((0, 2), (2, 1), (3, 3), (6, 8))  # first row and number of rows


def make(module: nn.Module, problem: Problem) -> Exportable:
    """A model of tensors to export.

    Args:
        module: float32, in eval mode.
        problem: its test rows check the files, its training rows calibrate them; its model is
            built.
    """
    data, built = problem.data, problem.built
    test = data.split("test")[:SAMPLES]
    chosen = data.split("train" if data.count("train") else "test")
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
    axes = data.dynamic_axes
    sizes = {
        axis: tensor.shape[dim]
        for name, tensor in zip(data.inputs, test.inputs, strict=True)
        for dim, axis in axes.get(name, {}).items()
    }
    subject = Subject(
        name="model",
        module=copy.deepcopy(module).eval(),
        inputs=data.inputs,
        outputs=built.outputs,
        # Traced with a batch of two: torch.export would make a batch of one a constant.
        pieces=[cut(problem, test[start : start + n].inputs, n == 3) for start, n in _PIECES],
        calibration=[rows.inputs for rows in _parts(chosen[order[:CALIBRATION]])],
        axes={
            "batch": Axis(),
            **{axis: Axis(2, 4 * size, (size,)) for axis, size in sizes.items()},
        },
        dynamic=tuple({0: "batch", **axes.get(name, {})} for name in data.inputs),
    )
    reference = answers_of(subject.module, test, "module")
    wanted = reference if isinstance(problem.judge, Parity) else test.targets

    def measure(
        run: dict[str, Callable[..., list[Tensor]]], limit: int | None = None
    ) -> dict[str, Any]:
        """The metric on the test rows, and agreement with the module."""
        parts = [run["model"](*rows.inputs) for rows in _parts(test)]
        found = tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))
        pairs = list(zip(problem.judged(found), wanted, strict=True))
        agreed = Answers(found, problem).agreement(Answers(reference, problem))
        return {
            **problem.judge.score(pairs),
            "agreement": agreed,
            "agreement_samples": len(test),
        }

    return Exportable([subject], problem.judge.metric, measure, served=True)


def _parts(rows: Rows) -> list[Rows]:
    return [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]


def load(recipe: Recipe, folder: Path, report: dict[str, Any]) -> Exportable:
    """See `optimize.export.subjects.load`."""
    task = Tensors()
    problem = task.load_data(recipe)
    source.same_data(problem.fingerprint(), recipe, report)
    if problem.count("test") < sum(_PIECES[-1]):
        raise DataError(f"exporting needs {sum(_PIECES[-1])} test rows to check the files on")
    task.build_model(recipe, problem)  # says what its outputs are called
    state = source.final_state(recipe, folder, report)
    return make(state.float_model, problem)
