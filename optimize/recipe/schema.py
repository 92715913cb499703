"""The contents of a recipe: what to compress, on which data, within which budget."""

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optimize.recipe.reader import Named
from optimize.utils.urls import cleaned

__all__ = ["ENGINES", "Budget", "Named", "Recipe", "Serving", "StageSpec", "explored"]

ENGINES = ("onnx-int8", "onnx", "openvino-int8", "openvino", "aoti-int8", "aoti")
"""The runtimes' files that may serve beside TorchScript, in the order they are tried."""


def explored(*values: Any) -> dict[str, Any]:
    """Metadata of a stage's option: a search tries these values. Leave them out for a Literal, of
    which all values are tried."""
    return {"explored": values}


@dataclass(frozen=True)
class Budget:
    """The gate.

    Attributes:
        max_drop: largest loss of the final model against the original, in the metric's own unit;
            of a share, 0.01 is one point.
        min_agreement: least share of samples on which both must agree.
        files_drop: largest loss of files that go through the handler against the same samples'
            tensors, in the metric's own unit.
        floor: worst value that the original and the final model may have, in the metric's own
            unit and direction: of accuracy 0.8 is at least 80%, of a word error rate 0.2 at most
            20%. None for no limit.
        objective: what a search optimises within these limits: the latency of one input, inputs
            per second in batches of `serving.batch_size`, or the size of the file.
        where: file and line, for messages.
    """

    max_drop: float = 0.01
    min_agreement: float = 0.0
    files_drop: float = 0.02
    floor: float | None = None
    objective: Literal["latency_batch1", "throughput", "size"] = "latency_batch1"
    where: tuple[str, int | None] = ("", None)


@dataclass(frozen=True)
class Serving:
    """How TorchServe runs the archive.

    Attributes:
        workers: processes that serve the model.
        threads: intra-op threads of each worker.
        batch_size, max_batch_delay_ms: largest batch, and the longest wait for it to fill.
        response_timeout_s: a worker that takes longer is restarted.
        batch_sizes: warmed up before a worker reports READY; 1 to `batch_size` if left out.
        max_pixels, max_bytes: larger requests are refused with 413 before decoding.
        engines: other runtimes' files to race against TorchScript, see `optimize.serving`:
            `auto` for all that are installed, a list of some, `torchscript` or `none` for none.
        engine_gain: how many times as fast as TorchScript one must be at the serving batch.
    """

    workers: int = 2
    threads: int = 1
    batch_size: int = 4
    max_batch_delay_ms: int = 1
    response_timeout_s: int = 60
    batch_sizes: list[int] = field(default_factory=list)
    max_pixels: int = 33_554_432
    max_bytes: int = 10_485_760
    engines: Literal["auto", "torchscript", "none"] | list[str] = "auto"
    engine_gain: float = 1.1

    def __post_init__(self) -> None:
        if min(self.workers, self.threads, self.batch_size, self.response_timeout_s) < 1:
            raise ValueError("workers, threads, batch_size and response_timeout_s start at 1")
        if self.engine_gain < 1:
            raise ValueError("engine_gain is 1 or more: 1.1 is a tenth faster")
        if unknown := [name for name in self.raced() if name not in ENGINES]:
            raise ValueError(
                f"engines: there is no {unknown[0]!r}; a list holds some of {', '.join(ENGINES)}"
            )

    def raced(self) -> tuple[str, ...]:
        """The runtimes' files to race."""
        if isinstance(self.engines, str):
            return ENGINES if self.engines == "auto" else ()
        return tuple(self.engines)

    def warm_up(self) -> list[int]:
        """Batch sizes to warm up: the recipe's, or every size TorchServe can form."""
        return self.batch_sizes or list(range(1, self.batch_size + 1))


@dataclass(frozen=True)
class Licences:
    """On which terms weights and data may be used: SPDX identifiers, or words.

    Attributes:
        weights: of the model that the recipe starts from.
        data: of the data that it is trained, calibrated and measured on.
        notice: a file, from the recipe's folder, whose text the archive's NOTICE must hold.
    """

    weights: str = ""
    data: str = ""
    notice: str | None = None


@dataclass(frozen=True)
class ReportOptions:
    """What the report's page shows.

    Attributes:
        examples: at most so many held-out samples on which original and final model differ most;
            they are the user's data, and 0 keeps them out of the artifact.
    """

    examples: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.examples <= 8:
            raise ValueError("examples are 0 to 8")


@dataclass(frozen=True)
class SearchOptions:
    """Limits of a search; `search: true` uses the defaults.

    Attributes:
        trials: candidates to try, including those stopped early.
        minutes: no candidate is started after this many.
        short: share of its training after which a candidate is stopped if another one is better
            in cost and accuracy.
        storage: SQLAlchemy URL of Optuna's storage, which several machines can share. By default
            an SQLite file in the artifact's folder.
    """

    trials: int = 20
    minutes: float = 60.0
    short: float = 0.2
    storage: str = ""

    def __post_init__(self) -> None:
        if self.trials < 1 or not self.minutes > 0 or not 0 < self.short < 1:
            raise ValueError("trials start at 1, minutes above 0, short is between 0 and 1")


@dataclass(frozen=True)
class StageSpec:
    """One stage: its kind, a name unique in the recipe, its checked options, and its file and line
    for messages."""

    kind: str
    name: str
    options: Any
    where: tuple[str, int | None] = ("", None)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: what to compress, on which data, within which budget.

    Attributes:
        name: of the artifact and of the served model.
        task: the kind of model.
        data: the data set: a built-in one, a file or folder, or `path/to/file.py:function`.
        model: the architecture: a built-in one, a TorchScript file, `timm/NAME`, a Hugging Face
            folder, or `path/to/file.py:function`.
        stages: what is done to the model, one after another.
        budget: what the compressed model may lose.
        serving: how the model is served.
        licences: on which terms weights and data may be used.
        seed: of everything random.
        checkpoint: a file of weights for `model`, from the recipe's folder.
        controls: whether models are trained for comparison in the report.
        input: how pictures become what the model takes.
        metric: how answers are judged, for tasks that leave the choice to the recipe.
        random_weights: that a model which nobody has trained is meant: only size and speed
            matter.
        search: look for the options that serve the budget best.
        folder, file, settings: where it was read from, and `--set`; relative paths start at
            `folder`.
    """

    name: str
    task: str
    data: Named
    model: Named
    stages: list[StageSpec]
    budget: Budget = field(default_factory=Budget)
    serving: Serving = field(default_factory=Serving)
    licences: Licences = field(default_factory=Licences)
    seed: int = 0
    checkpoint: str | None = None
    controls: bool = False
    input: Any = None
    metric: Named | None = None
    random_weights: bool = False
    search: SearchOptions | None = None
    report: ReportOptions = field(default_factory=ReportOptions)
    folder: Path = Path()
    file: str = ""
    settings: tuple[str, ...] = ()

    def command(self) -> str:
        """The command line that runs this recipe again; passwords in URLs are left out."""
        words = ["python", "-m", "optimize", "run", self.file]
        for setting in self.settings:
            words += ["--set", cleaned(setting)]
        return shlex.join(words)

    def digest(self, stages: int | None = None) -> str:
        """SHA-256 of everything that affects the result of the first `stages` stages."""
        counted = self.stages if stages is None else self.stages[:stages]
        parts: dict[str, Any] = {
            "format": 3,  # of finished stages and reports: earlier ones are made anew
            "task": self.task,
            "data": [self.data.name, self.data.options],
            "model": [self.model.name, self.model.options],
            "checkpoint": self.checkpoint,
            "seed": self.seed,
            "stages": [[s.kind, s.name, dataclasses.asdict(s.options)] for s in counted],
        }
        if self.input is not None:
            parts["input"] = dataclasses.asdict(self.input)
        if self.metric is not None:
            parts["metric"] = [self.metric.name, self.metric.options]
        if stages is None:
            parts["rest"] = [
                self.name,
                self.controls,
                dataclasses.asdict(self.budget),
                dataclasses.asdict(self.serving),
                dataclasses.asdict(self.licences),
                dataclasses.asdict(self.search) if self.search else None,
                dataclasses.asdict(self.report),
            ]
        text = json.dumps(_without_where(parts), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _without_where(value: Any) -> Any:
    """Drop file and line, which do not affect the result."""
    if isinstance(value, dict):
        return {k: _without_where(v) for k, v in value.items() if k != "where"}
    if isinstance(value, list | tuple):
        return [_without_where(v) for v in value]
    return value
