"""The contract of a task: one kind of model with its data, stages, answers and metric.

The pipeline, the search, the report and the exporters know only this. What an input, an answer
and a split are is between a task and its data: `D` is the task's data set, `A` what `predict`
returns for a split.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from optimize.data.dataset import Data, Sample
from optimize.evaluation import cost
from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Recipe
from optimize.training.checkpoints import Progress

D = TypeVar("D", bound=Data)
A = TypeVar("A")
T = TypeVar("T")
Inputs = tuple[Tensor, ...]
"""Arguments of one call of a model."""


@dataclass
class State:
    """What goes from stage to stage.

    Attributes:
        model: the current model, as it will be saved.
        float_model: the current model before quantization: what is counted and exported.
        original: the model everything is compared with: the first trained one.
        engine: `torch.backends.quantized.engine` that `model` needs, if any.
        details: what the last stage measured, for its row of the report: plain values.
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
        """The state after a stage that made another float model."""
        return dataclasses.replace(self, model=model, float_model=model, details=details)


class Memory:
    """Answers of a model that several stages of a run need, computed once."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()

    def once(self, model: nn.Module, name: str, compute: Callable[[], T]) -> T:
        """`compute()` the first time this `model` is asked for `name`, what it gave after that."""
        known = self._known.setdefault(model, {})
        if name not in known:
            known[name] = compute()
        answer: T = known[name]
        return answer


@dataclass(frozen=True)
class Context(Generic[D]):
    """What a stage works with beside the state.

    Attributes:
        recipe: what was asked.
        data: the data set.
        seed: this stage's own.
        title: for progress bars.
        memory: shared by the stages of a run.
        scratch: where the stage may keep what it needs to go on after being killed; None: it
            starts over.
        digest: of everything that decides the stage's result.
        say: told a line where the user should know of something.
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
        """Where the training called `name` keeps its checkpoints, one every `seconds`."""
        if self.scratch is None:
            return None
        return Progress(self.scratch / f"{name}.pt", self.digest, seconds)


@dataclass(frozen=True)
class Stage(Generic[D]):
    """A kind of stage: the dataclass of its options, and what it does to the state."""

    options: type[Any]
    run: Callable[[State, Any, Context[D]], State]


class Task(ABC, Generic[D, A]):
    """A kind of model. Register one with `optimize.tasks.registry.register`.

    Attributes:
        stages: what recipes of the task can be made of.
        exporter: the module whose `load` says what is exported (see
            `optimize.export.subjects`); "" where exporting is not supported.
    """

    stages: ClassVar[Mapping[str, Stage[Any]]]
    exporter: ClassVar[str] = ""

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

    def with_validation(self, data: D, seed: int) -> D:
        """The data with a `validation` split, taken from the training data where there is none.

        Raises:
            DataError: there is nothing to take it from.
        """
        return data

    # Answers, and what they are worth.

    @abstractmethod
    def calls(self, data: D, batch_size: int) -> list[Inputs]:
        """Real held-out inputs, each a call of the model with `batch_size` samples."""

    @abstractmethod
    def predict(self, model: nn.Module, data: D, split: str, title: str) -> A:
        """The model's answers for a split; `model` may be a loaded TorchScript file."""

    @abstractmethod
    def metric(self, data: D) -> Metric:
        """What the gate looks at."""

    @abstractmethod
    def score(self, answers: A, data: D, split: str) -> dict[str, Any]:
        """The metric's value by its name, `samples` and the 95% interval `ci95`; and more."""

    @abstractmethod
    def agreement(self, answers: A, reference: A) -> float:
        """Share of samples on which two models say the same."""

    def cost(self, state: State, data: D, answers: A) -> dict[str, int]:
        """`parameters`, and `macs` of one sample."""
        (example,) = self.calls(data, 1)[:1]
        return {
            "parameters": cost.parameters(state.float_model),
            "macs": cost.macs(state.float_model, *example),
        }

    def controls(self, recipe: Recipe, data: D, final: nn.Module) -> dict[str, nn.Module]:
        """Float models the report compares with, trained where the recipe says `controls`."""
        return {}

    # What is served.

    @abstractmethod
    def card(self, recipe: Recipe, data: D) -> dict[str, Any]:
        """Entries of model.json that are the task's: `handler`, `labels`, `input`, and what it
        adds to `model`."""

    def files(self, recipe: Recipe, data: D) -> dict[str, Path]:
        """Files that the handler needs beside the model: name in the artefact to source."""
        return {}

    def samples(self, data: D, answers: A) -> list[Sample]:
        """Held-out inputs to ask a server with; `answers` are the final model's on the test
        split."""
        return []
