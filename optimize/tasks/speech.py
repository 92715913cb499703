"""Speech recognition: Whisper checkpoints, recordings, and what compresses them.

`optimize.whisper.artifact` does what a recipe says here, with the same artefact and the same
report as every task.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optimize.data import speech
from optimize.errors import RecipeError
from optimize.models.whisper import artifact as whisper_artifact
from optimize.models.whisper import cost, find, screen, silence
from optimize.models.whisper.checkpoint import Checkpoint, Spec
from optimize.models.whisper.compress import ENGINE, CompressOptions
from optimize.pipeline import artifact
from optimize.recipe.schema import Named, Recipe
from optimize.report import report
from optimize.tasks.base import Context, Stage, State

METRIC = "wer"
HIGHER_IS_BETTER = False
LANGUAGE = "en"
MAX_SECONDS = 3600


@dataclass(frozen=True)
class Int8Stage:
    """Linear layers and vocabulary in int8, encoder attention in bf16."""


@dataclass(frozen=True)
class ScreenStage:
    """The output head looks through a projection of `rank` columns first."""

    rank: int = screen.RANK


@dataclass(frozen=True)
class ContextStage:
    """Encode the real audio only; see `optimize.whisper.silence`."""

    group: int = silence.GROUP
    step: int = 16
    margin: int = 4
    merged: int = 2


def _refuse(state: State, options: Any, context: Context) -> State:
    raise NotImplementedError("speech runs its stages itself, see `run`")


STAGES: dict[str, Stage] = {
    "int8": Stage(Int8Stage, _refuse),
    "screen": Stage(ScreenStage, _refuse),
    "context": Stage(ContextStage, _refuse),
}


def _options(spec: Named, known: tuple[str, ...]) -> dict[str, Any]:
    for name in spec.options:
        if name not in known:
            message = f"{spec.name} has no option {name!r}; it takes {', '.join(known)}"
            raise RecipeError(message, *spec.where)
    return spec.options


def _absolute(path: str | None, folder: Path) -> str | None:
    return None if path is None else str(folder / Path(path).expanduser())


def load_data(spec: Named, folder: Path) -> speech.Speech:
    """Recordings: `speech`, or `speech: {path: LISTING}`; see `optimize.data.speech`."""
    if spec.name != "speech":
        raise RecipeError(f"no data set {spec.name!r}; there is speech", *spec.where)
    options = dict(_options(spec, ("path", "development", "limit")))
    return speech.load(**{**options, "path": _absolute(options.get("path"), folder)})


def load_checkpoint(spec: Named, folder: Path, override: str | None) -> Checkpoint:
    """Weights: `whisper`, or `whisper: {path: FOLDER, language: de}`; a recipe's `checkpoint`
    names the folder too."""
    if spec.name != "whisper":
        raise RecipeError(f"no architecture {spec.name!r}; there is whisper", *spec.where)
    options = _options(spec, ("path", "language"))
    path = _absolute(override or options.get("path"), folder)
    return find.find(path, options.get("language", LANGUAGE))


def plan(recipe: Recipe) -> whisper_artifact.Plan:
    """How the model is compressed after each of the recipe's stages."""
    if recipe.stages and recipe.stages[0].kind != "int8":
        raise RecipeError("the first stage of a speech recipe is int8", recipe.file)
    options = CompressOptions("padded", rank=0, group=1, merged=1)
    found: whisper_artifact.Plan = {}
    for spec in recipe.stages:
        if spec.kind == "screen":
            options = replace(options, rank=spec.options.rank)
        elif spec.kind == "context":
            options = replace(options, context="real", **vars(spec.options))
        found[spec.name] = options
    return found


def card(recipe: Recipe, spec: Spec) -> dict[str, Any]:
    """The artefact's model.json, see docs/architecture.md."""
    language = next((k for k, v in spec.languages.items() if v in spec.start), LANGUAGE)
    serving = recipe.serving
    return {
        "name": recipe.name,
        "task": recipe.task,
        "handler": "speech_recognizer",
        "labels": [],
        "model": {
            "file": "model.pt",
            "quantized_engine": ENGINE,
            "threads": serving.threads,
            "batch_sizes": serving.warm_up(),
            "decoding": {
                "start": spec.start,
                "language": language,
                "languages": spec.languages,
                "tasks": spec.tasks,
            },
        },
        "input": {"max_seconds": MAX_SECONDS, "max_bytes": serving.max_bytes},
        "serving": {
            "workers": serving.workers,
            "batch_size": serving.batch_size,
            "max_batch_delay_ms": serving.max_batch_delay_ms,
            "response_timeout_s": serving.response_timeout_s,
        },
        "files": ["tokenizer.json", "vad.jit"],
    }


def run(
    recipe: Recipe, folder: Path, *, resume: bool = False, say: Callable[[str], None] = print
) -> None:
    """Run a speech recipe, see `optimize.whisper.artifact`.

    Args:
        recipe: a checked recipe.
        folder: the artefact's.
        resume: leave a finished artefact of the same recipe and data as it is.
        say: told a line at each step.

    Raises:
        OptimizeError: data or weights are missing, or the saved file answers otherwise.
    """
    data = load_data(recipe.data, recipe.folder)
    say(f"data: {data.name}, {data.source}, {len(data.test)} test utterances")
    found = load_checkpoint(recipe.model, recipe.folder, recipe.checkpoint)
    say(f"model: {found.source}, {cost.parameters(found.spec) / 1e6:.1f}M parameters")
    digest = f"{recipe.digest()}:{data.fingerprint()}:{found.source}"
    if resume:
        artifact.recover(folder / "stages", folder)
        if report.is_current(folder, digest):
            say(f"{folder} is finished and up to date")
            return
    whisper_artifact.make(
        recipe, plan(recipe), card(recipe, found.spec), found, data, folder, digest=digest, say=say
    )
