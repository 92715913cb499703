"""What is exported: modules with real inputs to trace, calibrate and check them with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from optimize.evaluation.metrics import Metric

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Axis:
    """A dimension that varies.

    Attributes:
        least, most: what formats with bounded shapes must take.
        sizes: what formats with fixed shapes are built for.
        limit: the most that the module itself can take, if there is such a thing.
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
        pieces: real held-out inputs that differ in every axis; the first is what is traced
            with. Where rows differ in length at least one piece has a padded row.
        calibration: real training inputs for the activation ranges.
        axes: the dimensions that vary, by name.
        dynamic: for every input, which of its dimensions is which
            axis.
        scores: outputs `[rows, classes]` of which softmax or argmax is taken: what is added to a
            whole row is no error.
        activations: how int8 files hold them where a format has both: `static`, with scales
            from `calibration`, or `dynamic`, quantized as they come. One scale is not enough
            for what differs from token to token.
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
            found = self.module(*inputs)
        return [found] if isinstance(found, Tensor) else list(found)

    def meant(self, answers: list[Tensor]) -> list[Tensor]:
        """Answers with the mean taken from every row of scores."""
        return [
            answer - answer.float().mean(-1, keepdim=True) if name in self.scores else answer
            for name, answer in zip(self.outputs, answers, strict=True)
        ]

    def sizes(self, inputs: Inputs) -> dict[str, int]:
        """How large every axis is in `inputs`."""
        return {
            axis: tensor.shape[dim]
            for tensor, dims in zip(inputs, self.dynamic, strict=True)
            for dim, axis in dims.items()
        }

    def shapes(self) -> list[dict[str, int]]:
        """Every combination of sizes that a static format is built for, smallest first."""
        names = list(self.axes)
        found = [
            dict(zip(names, sizes, strict=True))
            for sizes in product(*(self.axes[name].sizes for name in names))
        ]
        return sorted(found, key=lambda shape: torch.tensor(list(shape.values())).prod().item())

    def example(self, shape: dict[str, int]) -> Inputs:
        """The first piece repeated or cut to a shape."""
        found = []
        for tensor, dims in zip(self.pieces[0], self.dynamic, strict=True):
            for dim, axis in dims.items():
                index = torch.arange(shape[axis]) % tensor.shape[dim]
                tensor = tensor.index_select(dim, index)
            found.append(tensor)
        return tuple(found)

    def unbounded(self) -> tuple[dict[int, Any], ...]:
        """`dynamic_shapes` for `torch.export`, as large as the module can take."""
        named = {
            name: torch.export.Dim(name, min=axis.least, max=axis.limit)
            for name, axis in self.axes.items()
        }
        return tuple({dim: named[axis] for dim, axis in dims.items()} for dims in self.dynamic)


@dataclass(frozen=True)
class Exportable:
    """A task's subjects, and how good a set of files is.

    Attributes:
        subjects: one or more modules.
        metric: what the check compares.
        evaluate: from one function per subject, torch in and out, to its value by its name,
            `samples`, `ci95`, `agreement` and `agreement_samples`. A second argument says how many
            recordings a slow runtime is given; None is all.
        served: whether `model.pt` takes and returns what the only subject does.
    """

    subjects: list[Subject]
    metric: Metric
    evaluate: Callable[..., dict[str, Any]]
    served: bool = False
    notes: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Subject]:
        return iter(self.subjects)
