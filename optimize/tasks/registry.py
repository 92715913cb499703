"""The tasks by name. A new one is a line here, or a call of `register`."""

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from optimize.errors import RecipeError
from optimize.recipe import docstrings, read
from optimize.recipe import json_schema as schema
from optimize.recipe.schema import Recipe
from optimize.tasks.base import Task

_TASKS: dict[str, str | Task[Any, Any]] = {
    "image_classification": "optimize.tasks.image:ImageClassification",
    "text_classification": "optimize.tasks.text:TextClassification",
    "text_embedding": "optimize.tasks.embedding:TextEmbedding",
    "speech_recognition": "optimize.tasks.speech:SpeechRecognition",
    "tensors": "optimize.tasks.tensors:Tensors",
}


def register(name: str, task: Task[Any, Any]) -> None:
    """Make a task available to recipes under `name`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _TASKS:
        raise ValueError(f"there is a task {name!r} already")
    _TASKS[name] = task


def names() -> list[str]:
    """Names of all tasks."""
    return sorted(_TASKS)


def load(name: str) -> Task[Any, Any]:
    """The task of that name; imports its module when first called."""
    task = _TASKS[name]
    if isinstance(task, str):
        module, _, cls = task.partition(":")
        task = getattr(importlib.import_module(module), cls)()
        assert isinstance(task, Task)
        _TASKS[name] = task
    return task


def _options(name: str) -> read.StageOptions:
    return {kind: stage.options for kind, stage in load(name).stages.items()}


def _input(name: str) -> type[Any] | None:
    return load(name).input_options


def json_schema() -> dict[str, Any]:
    """The JSON Schema of recipes of all tasks there are."""
    return schema.schema({name: _taken(load(name)) for name in names()})


def _taken(task: Task[Any, Any]) -> schema.TaskOptions:
    """What a task's recipes may say."""

    def functions(named: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
        parts = {name: place.partition(":") for name, place in named.items()}
        return {
            name: getattr(importlib.import_module(module), function)
            for name, (module, _, function) in parts.items()
        }

    return schema.TaskOptions(
        docstrings.summary(type(task)),
        {kind: stage.options for kind, stage in task.stages.items()},
        task.input_options,
        functions(task.datasets),
        functions(task.architectures),
        functions(task.metrics) if task.takes_metric else None,
    )


def read_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read and check a recipe of any task.

    Args:
        path: the YAML file.
        overrides: `key.sub=value` settings that replace what the file says.

    Raises:
        RecipeError: with file, line and what was expected.
    """
    tasks: dict[str, Callable[[], read.StageOptions]] = {
        name: partial(_options, name) for name in names()
    }
    inputs = {name: partial(_input, name) for name in names()}
    recipe = read.read(path, overrides, tasks=tasks, inputs=inputs)
    if recipe.metric is not None and not load(recipe.task).takes_metric:
        raise RecipeError(
            f"metric: {recipe.task} has a metric of its own; leave it out", *recipe.metric.where
        )
    return recipe
