"""What a recipe of tensors names: data, and how answers are judged."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data import diamonds, tensor_files
from optimize.data.tables import SUFFIXES
from optimize.data.tensors import Rows, TensorData
from optimize.errors import DataError, ModelError, RecipeError
from optimize.evaluation.class_judges import Classification, MultiLabel
from optimize.evaluation.judge import Judge, Pairs
from optimize.evaluation.judges import JUDGES
from optimize.evaluation.metrics import Metric
from optimize.evaluation.number_judges import Function
from optimize.evaluation.parity_judge import Parity
from optimize.models.sources.user_file import described, load_function
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import named
from optimize.utils.bars import bar

DATASETS: dict[str, Callable[..., TensorData]] = {
    "tensors": tensor_files.load,
    "diamonds": diamonds.load,
}
BATCH = 64
Outputs = tuple[Tensor, ...]
"""Outputs `[N, ...]` of all rows of a split, in the order of their names."""


@dataclass
class Built:
    """What is known once the recipe's model is built.

    Attributes:
        outputs: names.
        examples: an output of two rows each.
        reference: the model's answers by split, for `metric: parity`.
        wrapped: whether the model's layers are named with `flat.PREFIX`.
    """

    outputs: tuple[str, ...] = ()
    examples: Outputs = ()
    reference: dict[str, Outputs] = field(default_factory=dict)
    wrapped: bool = False


@dataclass(frozen=True)
class Problem:
    """Data and the judge of the answers.

    `output` names the output that is judged, where it is not the first or of its target's name.
    """

    data: TensorData
    judge: Judge
    output: str | None = None
    built: Built = field(default_factory=Built)

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def source(self) -> str:
        return self.data.source

    @property
    def labels(self) -> list[str]:
        return self.data.labels

    @property
    def notes(self) -> list[str]:
        return self.data.notes

    @property
    def agreement_split(self) -> str:
        return "test"

    def count(self, split: str) -> int:
        return self.data.count(split)

    def fingerprint(self) -> str:
        return self.data.fingerprint()

    def judged(self, answers: Outputs) -> Outputs:
        """The outputs that are judged, in the order of the targets; all of them for parity."""
        outputs = self.built.outputs
        if isinstance(self.judge, Parity):
            return answers
        found = []
        for position, target in enumerate(self.data.targets):
            name = self.output if self.output and not position else target
            if name not in outputs:
                if name == self.output or position >= len(outputs):
                    raise ModelError(
                        f"the model has no output {name!r} to judge; it has {', '.join(outputs)}"
                    )
                name = outputs[position]
            found.append(answers[outputs.index(name)])
        return tuple(found)

    def pairs(self, answers: Outputs, split: str) -> Pairs:
        """Outputs with their targets, or with the original's answers."""
        if isinstance(self.judge, Parity):
            wanted = self.built.reference.get(split)
            if wanted is None:
                raise DataError(f"parity has no answers of the original on the {split} split")
        else:
            wanted = self.data.split(split).targets
        return list(zip(self.judged(answers), wanted, strict=True))


@dataclass(frozen=True)
class Answers:
    """A model's outputs for all rows of a split, and what judges them."""

    outputs: Outputs
    problem: Problem

    def agreement(self, reference: "Answers") -> float:
        """Share of rows on which two models agree."""
        judged = (self.problem.judged(answers.outputs) for answers in (self, reference))
        return self.problem.judge.agreement(list(zip(*judged, strict=True)))

    def classes(self) -> tuple[Tensor, Tensor] | None:
        """On the test split, logits `[N, classes]` and targets, int64 `[N]` or of several labels
        float `[N, classes]`; None unless the answers are such scores."""
        judge, targets = self.problem.judge, self.problem.data.split("test").targets
        (answer, *_) = self.problem.judged(self.outputs)
        if not answer.is_floating_point() or answer.dim() > 2:
            return None
        if isinstance(judge, MultiLabel):
            return answer, targets[0].float()
        if not isinstance(judge, Classification):
            return None
        scores = answer.reshape(len(answer), -1)
        if scores.shape[1] == 1:  # the logit of the second of two classes
            scores = torch.cat([torch.zeros_like(scores), scores], 1)
        return scores, targets[0].long().flatten()


def load(recipe: Recipe) -> Problem:
    """The data and the judge that a recipe names.

    Raises:
        DataError: the data are absent or malformed, or have no targets.
        RecipeError: no such data set, metric or option.
    """
    data = _load_data(recipe.data, recipe.folder, recipe.seed)
    judge, output = _judge(recipe)
    if not data.targets and not isinstance(judge, Parity):
        raise DataError(
            f"data set {data.name} has no targets to measure {judge.metric.name} on: name them "
            "with targets: [NAME], or say metric: parity"
        )
    return Problem(data, judge, output)


def _load_data(spec: Named, folder: Path, seed: int) -> TensorData:
    if spec.name not in DATASETS:
        suffixes = (".npz", ".safetensors", *SUFFIXES)
        if ":" not in spec.name and Path(spec.name).suffix.lower() not in suffixes:
            choices = [*DATASETS, *(f"tensors: {{file: {kind}}}" for kind in ("FILE", "file.py:f"))]
            raise named.unknown("data set", spec, choices)
        spec = Named("tensors", {"file": spec.name, **spec.options}, spec.where)
    if spec.name == "tensors" and "name" in spec.options:  # `tensors: FILE`
        options = dict(spec.options)
        spec = dataclasses.replace(spec, options={"file": options.pop("name"), **options})
    spec = named.absolute(spec, folder, "path")
    return named.call(DATASETS[spec.name], spec, seed=seed, folder=folder)


def _judge(recipe: Recipe) -> tuple[Judge, str | None]:
    spec = recipe.metric
    if spec is None:
        raise RecipeError(
            f"the recipe needs 'metric': {', '.join(JUDGES)}, or path/to/file.py:function",
            recipe.file,
        )
    options = dict(spec.options)
    output = options.pop("output", None)
    if ":" in spec.name:
        function = load_function(spec.name, recipe.folder)
        title = spec.name.rpartition(":")[2]
        spec = dataclasses.replace(spec, options=options)
        metric = named.call(_metric, spec, title=title)
        return Function(_guarded(function, spec.name), metric), output
    if spec.name not in JUDGES:
        raise named.unknown("metric", spec, [*JUDGES, "path/to/file.py:function"])
    spec = dataclasses.replace(spec, options=options)
    return named.call(JUDGES[spec.name], spec), output


def _metric(title: str, higher_is_better: bool = True, unit: str = "") -> Metric:
    """The metric of a user's function."""
    return Metric(
        title,
        title.replace("_", " ").capitalize(),
        unit=unit,
        change_unit=unit,
        higher_is_better=higher_is_better,
        scale=1.0,
        digits=4,
        least=None,
        most=None,
        counted=False,
    )


def _guarded(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    def call(answers: Any, targets: Any) -> Any:
        try:
            found = torch.as_tensor(function(answers, targets))
            if not found.isfinite().all():
                raise ValueError("it returned NaN or infinity")
            return found
        except (Exception, SystemExit) as error:  # the user's code can raise anything
            raise DataError(f"metric {name} failed: {described(error)}") from error

    return call


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Outputs:
    """A model's outputs for some rows; it may be a loaded TorchScript file."""
    with torch.inference_mode():
        answers = model(*inputs)
    outputs = (answers,) if isinstance(answers, Tensor) else tuple(answers)
    return tuple(output.clone() for output in outputs)


def answers_of(model: nn.Module, rows: Rows, title: str) -> Outputs:
    """A model's outputs for all rows, batch by batch."""
    starts = range(0, len(rows), BATCH)
    parts = [
        outputs_of(model, rows[start : start + BATCH].inputs)
        for start in bar(starts, title=title, unit="batch")
    ]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))
