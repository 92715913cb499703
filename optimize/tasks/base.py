"""The interface of a task: one kind of model with its data, stages, answers and metric.

The pipeline, the search, the report and the exporters use only this. Task and data define what an
input, an answer and a split are: `D` is the type of the task's data set, `A` the type of the
answers that `predict` returns for a split.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from optimize.data.dataset import Data, Sample
from optimize.evaluation import cost
from optimize.evaluation.examples import Example
from optimize.evaluation.metrics import Metric
from optimize.models.sources import dependencies
from optimize.recipe.schema import Recipe
from optimize.training import distributed
from optimize.training.checkpoints import Progress

D = TypeVar("D", bound=Data)
A = TypeVar("A")
T = TypeVar("T")
Inputs = tuple[Tensor, ...]
"""Arguments of one call of a model."""


@dataclass
class State:
    """The state passed from stage to stage.

    Attributes:
        model: the current model, as it will be saved.
        float_model: the current model before quantization, for counting parameters and exports.
        original: the first trained model, which all others are compared with.
        engine: `torch.backends.quantized.engine` that `model` needs, if any.
        details: JSON values that the last stage measured, for its row of the report.
    """

    model: nn.Module
    float_model: nn.Module
    original: nn.Module
    engine: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, **details: Any) -> "State":
        """A float model that is its own original."""
        return cls(model, model, model, details=details)

    def then(self, model: nn.Module, **details: Any) -> "State":
        """The state after a stage that produced a new float model."""
        return dataclasses.replace(self, model=model, float_model=model, details=details)


class Memory:
    """Cache for results of a model that several stages of a run need."""

    def __init__(self) -> None:
        self._results: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()

    def once(self, model: nn.Module, name: str, compute: Callable[[], T]) -> T:
        """The result of `compute()` for this `model` and `name`, computed the first time only."""
        results = self._results.setdefault(model, {})
        # Computing takes all processes, so all of them do where one lacks the result.
        if distributed.mean(torch.tensor(float(name in results))) < 1:
            results.clear()  # a teacher's states are gigabytes: only the last result is kept
            results[name] = compute()
        result: T = results[name]
        return result


@dataclass(frozen=True)
class Context(Generic[D]):
    """What a stage gets in addition to the state.

    Attributes:
        recipe: the recipe.
        data: the data set.
        seed: of this stage.
        title: for progress bars.
        memory: shared by the stages of a run.
        scratch: folder for checkpoints, to resume from after being killed; None for none.
        digest: of everything that affects the stage's result.
        say: called with a line to print.
    """

    recipe: Recipe
    data: D
    seed: int
    title: str
    memory: Memory = field(default_factory=Memory)
    scratch: Path | None = None
    digest: str = ""
    say: Callable[[str], None] = print

    @property
    def folder(self) -> Path:
        """Where the recipe's relative paths start."""
        return self.recipe.folder

    def progress(self, name: str, seconds: float) -> Progress | None:
        """Checkpoints of the training `name`, one every `seconds`; None without `scratch`."""
        if self.scratch is None:
            return None
        return Progress(self.scratch / f"{name}.pt", self.digest, seconds)


@dataclass(frozen=True)
class Stage(Generic[D]):
    """A kind of stage: the dataclass of its options, and the function from state to state."""

    options: type[Any]
    run: Callable[[State, Any, Context[D]], State]


class Task(ABC, Generic[D, A]):
    """A kind of model. Register one with `optimize.tasks.registry.register`.

    Attributes:
        stages: the kinds of stages that recipes of the task can use, by name.
        exporter: the module whose `load` returns what to export (see
            `optimize.export.subjects`); "" if exporting is not supported.
        input_options: the dataclass of a recipe's `input`; None if the task takes none.
        takes_metric: whether a recipe may name its `metric`.
        datasets, architectures, metrics: the functions that a recipe's `data`, `model` and
            `metric` can name, each as `module:function`, for the schema of recipes. Their
            parameters are the options; without any a recipe's names are not checked.
    """

    stages: ClassVar[Mapping[str, Stage[Any]]]
    exporter: ClassVar[str] = ""
    input_options: ClassVar[type[Any] | None] = None
    takes_metric: ClassVar[bool] = False
    datasets: ClassVar[Mapping[str, str]] = {}
    architectures: ClassVar[Mapping[str, str]] = {}
    metrics: ClassVar[Mapping[str, str]] = {}

    # From a recipe to data and a model.

    @abstractmethod
    def load_data(self, recipe: Recipe) -> D:
        """The data set that `recipe.data` names.

        Raises:
            DataError: it is absent or malformed.
            RecipeError: there is no such data set or option.
        """

    @abstractmethod
    def build_model(self, recipe: Recipe, data: D) -> nn.Module:
        """The float model that `recipe.model` names, with the weights of `recipe.checkpoint`.

        Raises:
            ModelError: it cannot be built, or does not fit data or checkpoint.
            RecipeError: there is no such architecture or option.
        """

    def has_random_weights(self, recipe: Recipe) -> bool:
        """Whether `build_model` certainly gives a model that nobody has trained."""
        return False

    def origins(self, recipe: Recipe, data: D) -> list[Path]:
        """The files that `build_model` reads: when one changes, finished stages are made anew.

        Those that the recipe names, by default.

        Raises:
            OptimizeError: one cannot be found.
        """
        named = [Path(recipe.checkpoint)] if recipe.checkpoint is not None else []
        found = dependencies.named_files(recipe.model, recipe.folder)
        return [*(recipe.folder / path.expanduser() for path in named), *found]

    def with_validation(self, data: D, seed: int) -> D:
        """The data with a `validation` split, taken from the training data if there is none.

        Raises:
            DataError: there is no training data to take it from.
        """
        return data

    # Answers and their quality.

    @abstractmethod
    def calls(self, data: D, batch_size: int) -> list[Inputs]:
        """Real held-out inputs: the arguments of calls with `batch_size` samples each."""

    @abstractmethod
    def predict(self, model: nn.Module, data: D, split: str, title: str) -> A:
        """The model's answers for a split; `model` may be a loaded TorchScript file."""

    @abstractmethod
    def metric(self, data: D) -> Metric:
        """The metric that the gate checks."""

    @abstractmethod
    def score(self, answers: A, data: D, split: str) -> dict[str, Any]:
        """The metric's value by its name, `samples`, the 95% interval `ci95`, and other values."""

    def chance(self, data: D) -> float | None:
        """The metric's value on the test split of a model that does not look at its input; None
        if that is not known."""
        return None

    @abstractmethod
    def agreement(self, answers: A, reference: A) -> float:
        """Share of samples on which two models agree."""

    def confidence(self, answers: A, data: D) -> tuple[Tensor, Tensor] | None:
        """Of a classifier's answers on the test split, what
        `optimize.evaluation.calibration.confidence` returns; None of other models."""
        return None

    def examples(self, before: A, after: A, data: D, most: int) -> list[Example]:
        """At most `most` test samples on which the answers of the original and the final model
        differ most, for people."""
        return []

    def cost(self, state: State, data: D, answers: A) -> dict[str, int]:
        """`parameters`, and `macs` of one sample."""
        (example,) = self.calls(data, 1)[:1]
        return {
            "parameters": cost.parameters(state.float_model),
            "macs": cost.macs(state.float_model, *example),
        }

    def controls(self, recipe: Recipe, data: D, final: nn.Module) -> dict[str, nn.Module]:
        """Float models to compare with in the report, trained if the recipe sets `controls`."""
        return {}

    def from_files(self, folder: Path, data: D, answers: A) -> dict[str, Any] | None:
        """What the model answers to held-out files that go through the handler.

        Args:
            folder: holds the artifact's files, without the report.
            data: the data set.
            answers: the final model's on the test split.

        Returns:
            `from_files` of `report.schema.json` without `drop` and `max_drop`; None if the task
            does not measure it.
        """
        return None

    # What is served.

    @abstractmethod
    def card(self, recipe: Recipe, data: D) -> dict[str, Any]:
        """The task's entries of model.json: `handler`, `labels`, `input`, and additions to
        `model`."""

    def files(self, recipe: Recipe, data: D) -> dict[str, Path]:
        """Files that the handler needs beside the model, by their name in the artifact."""
        return {}

    def samples(self, data: D, answers: A) -> list[Sample]:
        """Held-out inputs for the check of a server; `answers` are the final model's on the test
        split."""
        return []
