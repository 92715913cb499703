"""What a recipe says: what to compress, on which data, within which budget."""

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optimize.recipe.reader import Named

__all__ = ["Budget", "Named", "Recipe", "Serving", "StageSpec", "explored"]


def explored(*values: Any) -> dict[str, Any]:
    """Metadata of a stage's option that a search tries these values of; a Literal's need no
    naming."""
    return {"explored": values}


@dataclass(frozen=True)
class Budget:
    """The gate.

    Attributes:
        max_drop: what the final model may lose against the original (0.01 is one point).
        min_agreement: the least share of samples on which both must say the same.
        objective: what a search makes best within the two: the latency of one input, inputs
            per second in batches of `serving.batch_size`, or the size of the file.
    """

    max_drop: float = 0.01
    min_agreement: float = 0.0
    objective: Literal["latency_batch1", "throughput", "size"] = "latency_batch1"

    def __post_init__(self) -> None:
        if self.max_drop >= 1:
            raise ValueError("max_drop is a share: 0.01 is one point")


@dataclass(frozen=True)
class Serving:
    """How TorchServe is to run the archive.

    Attributes:
        workers: processes that serve the model.
        threads: intra-op threads of each.
        batch_size, max_batch_delay_ms: how long a request may wait for mates.
        response_timeout_s: a worker that takes longer is restarted.
        batch_sizes: warmed up before a worker reports READY; 1 to `batch_size` when left out.
        max_pixels, max_bytes: larger requests are refused with 413 before decoding.
    """

    workers: int = 2
    threads: int = 1
    batch_size: int = 4
    max_batch_delay_ms: int = 1
    response_timeout_s: int = 60
    batch_sizes: list[int] = field(default_factory=list)
    max_pixels: int = 33_554_432
    max_bytes: int = 10_485_760

    def __post_init__(self) -> None:
        if min(self.workers, self.threads, self.batch_size, self.response_timeout_s) < 1:
            raise ValueError("workers, threads, batch_size and response_timeout_s start at 1")

    def warm_up(self) -> list[int]:
        """Batch sizes to warm up: the recipe's, or every size TorchServe can form."""
        return self.batch_sizes or list(range(1, self.batch_size + 1))


@dataclass(frozen=True)
class SearchOptions:
    """How long a search may take; `search: true` is all defaults.

    Attributes:
        trials: candidates to try, those stopped early included.
        minutes: no candidate is begun after so many.
        short: the share of its training after which a candidate that another one beats in
            cost and accuracy is given up.
        storage: an SQLAlchemy URL that Optuna keeps the study in; several machines that name
            the same one share it. By default an SQLite file in the artefact's folder.
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
    """One stage: its kind, a name unique in the recipe, its checked options, and where it stands
    (file and line, for messages)."""

    kind: str
    name: str
    options: Any
    where: tuple[str, int | None] = ("", None)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `folder` is where its relative paths start."""

    name: str
    task: str
    data: Named
    model: Named
    stages: list[StageSpec]
    budget: Budget = field(default_factory=Budget)
    serving: Serving = field(default_factory=Serving)
    seed: int = 0
    checkpoint: str | None = None
    controls: bool = False
    search: SearchOptions | None = None
    folder: Path = Path()
    file: str = ""
    settings: tuple[str, ...] = ()

    def command(self) -> str:
        """What to type to run this recipe again."""
        words = ["python", "-m", "optimize", "run", self.file]
        for setting in self.settings:
            words += ["--set", setting]
        return shlex.join(words)

    def digest(self, stages: int | None = None) -> str:
        """SHA-256 of everything that decides the result of the first `stages` stages."""
        kept = self.stages if stages is None else self.stages[:stages]
        parts: dict[str, Any] = {
            "task": self.task,
            "data": [self.data.name, self.data.options],
            "model": [self.model.name, self.model.options],
            "checkpoint": self.checkpoint,
            "seed": self.seed,
            "stages": [[s.kind, s.name, dataclasses.asdict(s.options)] for s in kept],
        }
        if stages is None:
            parts["rest"] = [
                self.name,
                self.controls,
                dataclasses.asdict(self.budget),
                dataclasses.asdict(self.serving),
                dataclasses.asdict(self.search) if self.search else None,
            ]
        text = json.dumps(_without_where(parts), sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def _without_where(value: Any) -> Any:
    """Drop line numbers: moving a stage down a line changes nothing about it."""
    if isinstance(value, dict):
        return {k: _without_where(v) for k, v in value.items() if k != "where"}
    if isinstance(value, list | tuple):
        return [_without_where(v) for v in value]
    return value
