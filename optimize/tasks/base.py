"""Kinds of model, one module each: their data, reference models, metric and stages.

A task module is a `Task`: plain functions and two constants that the pipeline calls.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from optimize.data.dataset import Dataset
from optimize.recipe.schema import Named, Recipe
from optimize.training.checkpoints import Progress


@dataclass
class State:
    """What goes from stage to stage.

    Attributes:
        model: the current model.
        float_model: the current model before quantization, for counting parameters.
        original: the model everything is compared with: the first trained one.
        training: what the original says of the training data, once computed.
        engine: `torch.backends.quantized.engine` that `model` needs, if any.
        details: what the last stage found out, for its row of the report: plain values.
    """

    model: nn.Module
    float_model: nn.Module
    original: nn.Module
    training: Tensor | None = None
    engine: str | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """What a stage works with beside the state.

    Attributes:
        dataset: the data.
        folder: where the recipe's relative paths start.
        seed: this stage's own.
        title: for progress bars.
        scratch: where the stage may keep what it needs to go on after being killed; None: it
            starts over.
        digest: of everything that decides the stage's result.
        say: told a line where the user should know of something.
    """

    dataset: Dataset
    folder: Path
    seed: int
    title: str
    scratch: Path | None = None
    digest: str = ""
    say: Callable[[str], None] = print

    def progress(self, name: str, seconds: float) -> Progress | None:
        """Where the training called `name` keeps its checkpoints, one every `seconds`."""
        if self.scratch is None:
            return None
        return Progress(self.scratch / f"{name}.pt", self.digest, seconds)


@dataclass(frozen=True)
class Stage:
    """A kind of stage: the dataclass of its options, and what it does to the state."""

    options: type[Any]
    run: Callable[[State, Any, Context], State]


class Task(Protocol):
    """What a module in this package offers."""

    METRIC: str
    HIGHER_IS_BETTER: bool
    STAGES: dict[str, Stage]

    def load_data(self, spec: Named, folder: Path, seed: int) -> Dataset:
        """The data set a recipe names."""

    def build_model(
        self, spec: Named, dataset: Dataset, folder: Path, checkpoint: str | None
    ) -> nn.Module:
        """The model a recipe names, with the checkpoint's weights."""

    def example(self, dataset: Dataset) -> Tensor:
        """One real input `[1, ...]`."""

    def predict(self, model: nn.Module, dataset: Dataset, split: str, title: str) -> Tensor:
        """The model's answers for a split."""

    def score(self, answers: Tensor, dataset: Dataset, split: str) -> dict[str, Any]:
        """Metric, samples, 95% interval and per-class values, as in the report."""

    def agreement(self, answers: Tensor, reference: Tensor) -> float:
        """Share of samples on which two models say the same."""

    def card(self, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
        """Task-specific entries of the model card: handler, labels, input."""

    def controls(self, recipe: Recipe, dataset: Dataset, final: nn.Module) -> dict[str, nn.Module]:
        """Float models the report compares with, trained when the recipe says `controls: true`."""


TASK_NAMES = {
    "image": "image_classification",
    "text": "text_classification",
    "speech": "speech_recognition",
}
