"""Any model of tensors: named inputs and outputs of any number, dtype and rank."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optimize.data.dataset import Sample
from optimize.errors import DataError, ModelError
from optimize.evaluation import calibration
from optimize.evaluation.class_judges import Classification
from optimize.evaluation.examples import Example
from optimize.evaluation.judges import JUDGES
from optimize.evaluation.metrics import Metric
from optimize.evaluation.parity_judge import Parity
from optimize.models import flat
from optimize.models.architectures import mlp
from optimize.models.notes import note
from optimize.models.parametrized import settle
from optimize.models.sources import torchscript
from optimize.models.sources.names import resolve
from optimize.models.sources.user_file import load_function
from optimize.models.weights import load_checkpoint
from optimize.recipe.schema import Named, Recipe
from optimize.tasks import examples, named, tensors_data, tensors_stages
from optimize.tasks.base import Inputs, Stage, Task
from optimize.tasks.tensors_data import Answers, Problem, answers_of
from optimize.training.tensors import TensorTrainOptions
from optimize.utils import blame

SAMPLES = 4
DATATYPES = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
}


def build_model(
    spec: Named, problem: Problem, folder: Path, checkpoint: str | None = None
) -> nn.Module:
    """Build the model `spec` names: `mlp`, `file.py:build`, or a TorchScript file.

    Returns:
        From tensors `[N, ...]`, in the order of the data's inputs, to a tensor or a tuple.

    Raises:
        ModelError: it cannot be built or called, or the checkpoint does not fit.
        RecipeError: no such architecture or option.
    """
    spec, data = resolve(spec), problem.data
    offered: dict[str, Any] = {
        "shapes": {
            name: tuple(tensor.shape[1:])
            for name, tensor in zip(data.inputs, data.split("test").inputs, strict=True)
        },
        "classes": len(data.labels),
    }
    model: nn.Module
    if ":" in spec.name:
        function = load_function(spec.name, folder)
        model = named.call_users(function, spec, ModelError, **offered)
    elif spec.name == "mlp":
        model = _perceptron(spec, problem)
    elif spec.name == "torchscript":
        model = named.call(torchscript.build, spec, folder=folder)
    else:
        choices = ["mlp", "path/to/file.py:build", "a TorchScript file"]
        raise named.unknown("architecture", spec, choices)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec.name} returned {type(model).__name__}, not an nn.Module")
    if checkpoint is not None:
        note(model, load_checkpoint(model, folder / Path(checkpoint).expanduser()))
    note(model, settle(model))
    return _as_function(model.eval(), spec.name, problem)


def _perceptron(spec: Named, problem: Problem) -> nn.Module:
    """`mlp: {widths: [64, 64], embedding: 8}` of the data's shapes, codes and target."""
    data = problem.data
    splits = list(data.splits.values())
    every = [torch.cat([rows.inputs[i] for rows in splits]) for i in range(len(data.inputs))]
    codes = [0 if x.is_floating_point() else int(x.max()) + 1 for x in every]
    if any(not x.is_floating_point() and int(x.min()) < 0 for x in every):
        raise DataError("mlp looks whole numbers up in a table: they must not be negative")
    target = data.split("test").targets[0] if data.targets else None
    output = 0
    if isinstance(problem.judge, Classification) and target is not None:
        output = max(int(rows.targets[0].max()) for rows in splits) + 1
    elif target is not None and target.dim() > 1:
        output = target[0].numel()

    sizes = [x[0].numel() for x in every]
    return named.call(mlp.build, spec, sizes=sizes, codes=codes, output=output)


def _as_function(model: nn.Module, name: str, problem: Problem) -> nn.Module:
    """The model as a function of tensors; notes in `problem.built` what it returns.

    Raises:
        ModelError: it fails on the data, or returns no tensors with a row for every row.
    """
    data, built = problem.data, problem.built
    rows = data.split("test")[:2]
    listed = ", ".join(
        f"{n} {str(x.dtype).removeprefix('torch.')} {list(x.shape)}"
        for n, x in zip(data.inputs, rows.inputs, strict=True)
    )
    try:
        with torch.no_grad():
            args, kwargs = flat.arguments(model, data.inputs, rows.inputs)
            answers = model(*args, **kwargs)
    except Exception as error:  # the user's code can raise anything
        layer = blame.layer(error)
        said = (
            f"model {name} fails on the data's inputs, {listed}"
            f"{f', in layer {layer}' if layer else ''}: {blame.first_line(error)}; name the "
            "inputs as the parameters of forward, or in their order (inputs: [...])"
        )
        raise ModelError("\n  ".join([said, *blame.user_lines(error).splitlines()])) from error
    found = flat.named(answers)
    if not found:
        raise ModelError(f"model {name} returns {type(answers).__name__}, which holds no tensor")
    for output, tensor in found.items():
        if not tensor.dim() or len(tensor) != len(rows):
            raise ModelError(
                f"model {name} returns {output} {list(tensor.shape)} for {len(rows)} rows: the "
                "first dimension of every input and output counts the rows of a batch"
            )
        if tensor.dtype not in DATATYPES:
            raise ModelError(f"model {name} returns {output} as {tensor.dtype}: return floats")
        if tensor.is_floating_point() and tensor.isnan().any():
            raise ModelError(f"model {name} answers NaN to the data's first rows, in {output}")
    if not built.outputs:
        built.outputs, built.examples = tuple(found), tuple(found.values())
        built.wrapped = not flat.is_plain(model, data.inputs, answers)
    elif set(found) != set(built.outputs):
        raise ModelError(
            f"model {name} returns {', '.join(found)}, and the original "
            f"{', '.join(built.outputs)}: a student returns what its teacher does"
        )
    if flat.is_plain(model, data.inputs, answers) and tuple(found) == built.outputs:
        return model
    return flat.Flat(model, data.inputs, built.outputs)


class Tensors(Task[Problem, Answers]):
    """Named tensors `[N, ...]` to named tensors `[N, ...]`."""

    stages: ClassVar[dict[str, Stage[Problem]]] = {
        "train": Stage(TensorTrainOptions, tensors_stages.run_train),
        "distill": Stage(
            tensors_stages.TensorDistillStage, tensors_stages.distill_into(build_model)
        ),
        "prune": Stage(tensors_stages.TensorPruneStage, tensors_stages.run_prune),
        "quantize": Stage(tensors_stages.TensorQuantizeStage, tensors_stages.run_quantize),
    }
    exporter = "optimize.export.subjects.tensors"
    takes_metric = True
    datasets: ClassVar[dict[str, str]] = {
        name: f"{load.__module__}:load" for name, load in tensors_data.DATASETS.items()
    }
    architectures: ClassVar[dict[str, str]] = {
        "mlp": "optimize.models.architectures.mlp:build",
        "torchscript": "optimize.models.sources.torchscript:build",
    }
    metrics: ClassVar[dict[str, str]] = {
        name: f"{judge.__module__}:{judge.__name__}" for name, judge in JUDGES.items()
    }

    def load_data(self, recipe: Recipe) -> Problem:
        return tensors_data.load(recipe)

    def build_model(self, recipe: Recipe, data: Problem) -> nn.Module:
        model = build_model(recipe.model, data, recipe.folder, recipe.checkpoint)
        if isinstance(data.judge, Parity):
            for split, rows in data.data.splits.items():
                data.built.reference[split] = answers_of(model, rows, f"original, {split}")
        return model

    def has_random_weights(self, recipe: Recipe) -> bool:
        return recipe.checkpoint is None and resolve(recipe.model).name == "mlp"

    def with_validation(self, data: Problem, seed: int) -> Problem:
        """A tenth of the training rows, if there is no validation split."""
        splits = dict(data.data.splits)
        if "validation" in splits:
            return data
        rows = data.data.split("train")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        count = max(1, len(order) // 10)
        splits |= {"validation": rows[order[:count]], "train": rows[order[count:]]}
        return dataclasses.replace(data, data=dataclasses.replace(data.data, splits=splits))

    def calls(self, data: Problem, batch_size: int) -> list[Inputs]:
        """The first test rows; of every free dimension only a part where the batch is odd, so
        that a model which has its size written into it is found out."""
        rows = data.data.split("test")
        index = torch.arange(batch_size) % len(rows)
        return [tensors_stages.cut(data, rows[index].inputs, batch_size in (3, 5, 7))]

    def predict(self, model: nn.Module, data: Problem, split: str, title: str) -> Answers:
        return Answers(answers_of(model, data.data.split(split), title), data)

    def metric(self, data: Problem) -> Metric:
        return data.judge.metric

    def score(self, answers: Answers, data: Problem, split: str) -> dict[str, Any]:
        return data.judge.score(data.pairs(answers.outputs, split))

    def chance(self, data: Problem) -> float | None:
        return data.judge.chance(data.data.split("test").targets) if data.data.targets else None

    def agreement(self, answers: Answers, reference: Answers) -> float:
        return answers.agreement(reference)

    def confidence(self, answers: Answers, data: Problem) -> tuple[Tensor, Tensor] | None:
        found = answers.classes()
        return None if found is None else calibration.confidence(*found)

    def examples(self, before: Answers, after: Answers, data: Problem, most: int) -> list[Example]:
        return examples.of_rows(before, after, most)

    def card(self, recipe: Recipe, data: Problem) -> dict[str, Any]:
        rows, built = data.data.split("test"), data.built
        free = data.data.dynamic_axes
        return {
            "handler": "tensors",
            "labels": data.labels,
            "input": {
                "tensors": [
                    {
                        **_declared(name, tensor, free.get(name, {})),
                        "example": list(tensor.shape[1:]),
                        "range": _range(tensor),
                    }
                    for name, tensor in zip(data.data.inputs, rows.inputs, strict=True)
                ],
                "max_bytes": recipe.serving.max_bytes,
            },
            "model": {
                "outputs": [
                    _declared(name, tensor, {})
                    for name, tensor in zip(built.outputs, built.examples, strict=True)
                ]
            },
        }

    def samples(self, data: Problem, answers: Answers) -> list[Sample]:
        """Test rows as JSON, with the final model's answers."""
        rows, found = data.data.split("test"), []
        for number in range(min(SAMPLES, len(rows))):
            sent = {
                name: tensor[number : number + 1].tolist()
                for name, tensor in zip(data.data.inputs, rows.inputs, strict=True)
            }
            wanted = {
                name: output[number : number + 1].tolist()
                for name, output in zip(data.built.outputs, answers.outputs, strict=True)
            }
            target = rows.targets[0][number] if rows.targets else None
            mark = ""
            if target is not None and target.numel() == 1:
                value = target.item()
                word = f"{value:.4g}" if isinstance(value, float) else str(value)
                if data.labels and isinstance(value, int):
                    word = data.labels[value]
                mark = "_" + re.sub(r"[^\w.-]+", "_", word)[:40]
            content = json.dumps(sent).encode()
            found.append(Sample(f"{number}{mark}.json", content, json.dumps(wanted)))
        return found


def _declared(name: str, tensor: Tensor, free: dict[int, str]) -> dict[str, Any]:
    """A tensor's name, datatype and shape as KServe's protocol writes them: -1 for what varies."""
    shape = [-1 if d in free else size for d, size in enumerate(tensor.shape[1:], 1)]
    return {"name": name, "datatype": DATATYPES[tensor.dtype], "shape": [-1, *shape]}


def _range(tensor: Tensor) -> list[float]:
    """The least and the largest value: warm-up inputs are made within."""
    low, high = tensor.min().item(), tensor.max().item()
    return [low, high]
