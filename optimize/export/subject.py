"""What is exported: modules, with real inputs for tracing, calibration and the check."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optimize.evaluation.metrics import Metric
from optimize.utils.parameters import by_parameter

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Axis:
    """A dimension that varies.

    Attributes:
        least, most: range of sizes for formats with bounded shapes.
        sizes: sizes for formats with fixed shapes.
        limit: largest size that the module can take; None for no limit.
    """

    least: int = 1
    most: int = 16
    sizes: tuple[int, ...] = (1, 8)
    limit: int | None = None


@dataclass(frozen=True)
class Subject:
    """One module, one file.

    Attributes:
        name: of the file.
        module: float32, in eval mode; from tensors to a tensor or a tuple of tensors.
        inputs, outputs: names, in order.
        pieces: real held-out inputs that differ in the size of every axis; the first is used for
            tracing. If rows differ in length, at least one piece has a padded row.
        calibration: real training inputs for the activation ranges.
        axes: the dimensions that vary, by name.
        dynamic: for every input, from its dimensions to axes.
        scores: outputs `[rows, classes]` that go into a softmax or argmax, so that adding a
            constant to a row is no error.
        activations: in int8 files of formats that have both: `static`, with scales from
            `calibration`, or `dynamic`, quantized at run time, for activations whose range differs
            from token to token.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    pieces: list[Inputs]
    calibration: list[Inputs]
    axes: dict[str, Axis]
    dynamic: tuple[dict[int, str], ...]
    scores: tuple[str, ...] = ()
    activations: Literal["static", "dynamic"] = "static"

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The module's answers as a list."""
        with torch.inference_mode():
            outputs = self.module(*inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def comparable(self, answers: list[Tensor]) -> list[Tensor]:
        """Answers with the mean of every row of scores subtracted."""
        return [
            answer - answer.float().mean(-1, keepdim=True) if name in self.scores else answer
            for name, answer in zip(self.outputs, answers, strict=True)
        ]

    def sizes(self, inputs: Inputs) -> dict[str, int]:
        """The size of every axis in `inputs`."""
        return {
            axis: tensor.shape[dim]
            for tensor, dims in zip(inputs, self.dynamic, strict=True)
            for dim, axis in dims.items()
        }

    def shapes(self) -> list[dict[str, int]]:
        """Every combination of sizes for formats with fixed shapes, smallest first."""
        names = list(self.axes)
        shapes = [
            dict(zip(names, sizes, strict=True))
            for sizes in product(*(self.axes[name].sizes for name in names))
        ]
        return sorted(shapes, key=lambda shape: torch.tensor(list(shape.values())).prod().item())

    def example(self, shape: dict[str, int]) -> Inputs:
        """The first piece repeated or cut to a shape."""
        tensors = []
        for tensor, dims in zip(self.pieces[0], self.dynamic, strict=True):
            for dim, axis in dims.items():
                index = torch.arange(shape[axis]) % tensor.shape[dim]
                tensor = tensor.index_select(dim, index)
            tensors.append(tensor)
        return tuple(tensors)

    def unbounded(self, module: nn.Module | None = None) -> tuple[Any, ...]:
        """`dynamic_shapes` for `torch.export` of a module, its own by default, up to its limits."""
        named = {
            name: torch.export.Dim(name, min=axis.least, max=axis.limit)
            for name, axis in self.axes.items()
        }
        shapes = [{dim: named[axis] for dim, axis in dims.items()} for dims in self.dynamic]
        return by_parameter(module or self.module, shapes)


@dataclass(frozen=True)
class Exportable:
    """A task's subjects, and how to evaluate a set of files.

    Attributes:
        subjects: one or more modules.
        metric: the metric of the check.
        evaluate: from one function per subject, from tensors to tensors, to the metric's value by
            its name, `samples`, `ci95`, `agreement` and `agreement_samples`. A second argument
            limits the number of recordings for slow runtimes; None for all.
        served: whether `model.pt` has the inputs and outputs of the only subject.
        notes: remarks for the report.
    """

    subjects: list[Subject]
    metric: Metric
    evaluate: Callable[..., dict[str, Any]]
    served: bool = False
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)
