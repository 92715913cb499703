"""Recipes: YAML that says what to compress, on which data, within which budget.

A recipe is read into dataclasses; whatever does not fit is refused with file, line and what
was expected, before anything runs.
"""

import dataclasses
import hashlib
import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from optimize.errors import RecipeError
from optimize.yaml_reader import Named, Reader, override

__all__ = ["Budget", "Named", "Recipe", "Serving", "StageSpec", "explored", "read"]


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


def _search(reader: Reader, node: yaml.Node) -> SearchOptions | None:
    """`search: true`, or a mapping of its options."""
    if isinstance(node, yaml.ScalarNode):
        return SearchOptions() if reader.value(node, bool, "search") else None
    options: SearchOptions = reader.dataclass(node, SearchOptions, "search")
    return options


def _without_where(value: Any) -> Any:
    """Drop line numbers: moving a stage down a line changes nothing about it."""
    if isinstance(value, dict):
        return {k: _without_where(v) for k, v in value.items() if k != "where"}
    if isinstance(value, list | tuple):
        return [_without_where(v) for v in value]
    return value


def read(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `key.sub=value` settings that replace what the file says.

    Raises:
        RecipeError: with file, line and what was expected.
    """
    from optimize import tasks

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"cannot be read: {reason}", str(path)) from error
    reader = Reader(str(path))
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "not YAML"
        raise RecipeError(problem, str(path), mark.line + 1 if mark else None) from error
    if root is None:
        raise RecipeError("is empty; see recipes/ for examples", str(path))
    for setting in overrides or []:
        override(root, setting, reader)
    entries = reader.mapping(root, "the recipe")
    known = [
        f.name for f in dataclasses.fields(Recipe) if f.name not in ("folder", "file", "settings")
    ]
    for name, (key, _) in entries.items():
        if name not in known:
            raise reader.unknown(key, name, known, "the recipe")
    for name in ("name", "task", "data", "model", "stages"):
        if name not in entries:
            raise reader.fail(root, f"the recipe needs {name!r}")

    def get(name: str, hint: Any) -> Any:
        return reader.value(entries[name][1], hint, name)

    name = get("name", str)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_\-.]*", name):
        raise reader.fail(
            entries["name"][1], f"name {name!r}: use letters, digits, '-', '_' and '.' only"
        )
    task_name = get("task", str)
    if task_name not in tasks.names():
        raise reader.fail(
            entries["task"][1], f"task must be one of {', '.join(tasks.names())}, not {task_name!r}"
        )
    kinds = tasks.load(task_name).STAGES
    stages_node = entries["stages"][1]
    if not isinstance(stages_node, yaml.SequenceNode):
        raise reader.fail(stages_node, "stages must be a list, each `- kind: {options}`")
    stages: list[StageSpec] = []
    for item in stages_node.value:
        spec = reader.named(item, "a stage")
        if spec.name not in kinds:
            raise reader.fail(
                item, f"there is no stage {spec.name!r}; there are {', '.join(kinds)}"
            )
        options_node = item.value[0][1] if isinstance(item, yaml.MappingNode) else None
        if options_node is None or reader.plain_is_null(options_node):
            options_node = yaml.MappingNode("tag:yaml.org,2002:map", [], item.start_mark)
        options = reader.dataclass(options_node, kinds[spec.name].options, spec.name)
        count = sum(s.kind == spec.name for s in stages)
        unique = spec.name if not count else f"{spec.name}-{count + 1}"
        stages.append(StageSpec(spec.name, unique, options, spec.where))
    optional = {
        key: get(key, hint)
        for key, hint in (
            ("budget", Budget),
            ("serving", Serving),
            ("seed", int),
            ("checkpoint", str),
            ("controls", bool),
        )
        if key in entries
    }
    if "search" in entries:
        optional["search"] = _search(reader, entries["search"][1])
    return Recipe(
        name=name,
        task=task_name,
        data=get("data", Named),
        model=get("model", Named),
        stages=stages,
        folder=path.resolve().parent,
        file=str(path),
        settings=tuple(overrides or ()),
        **optional,
    )
