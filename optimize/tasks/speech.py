"""Speech recognition: Whisper checkpoints, word error rate, and what compresses them.

Recordings differ in length and a transcriber returns tokens, so nothing here fits in one
tensor: instead of the pipeline's steps this task brings its own `run`, with the same artefact
and the same report.
"""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from tqdm import tqdm

from optimize import files, report, torchscript, wer
from optimize.data import Dataset, package_folder, speech
from optimize.errors import DataError, ParityError, RecipeError
from optimize.recipe import Named, Recipe
from optimize.tasks import Context, Stage, State
from optimize.whisper import build, checkpoint, compress, cost, screen, silence
from optimize.whisper.checkpoint import Checkpoint
from optimize.whisper.compress import ENGINE, CompressOptions

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
    return checkpoint.find(path, options.get("language", LANGUAGE))


Model = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class _Version:
    """One version of the model: its scripted file, and how it encodes."""

    name: str
    path: Path
    options: CompressOptions | None


def _save(model: torch.nn.Module, path: Path) -> None:
    with torchscript.silenced():
        torchscript.save(torch.jit.script(model), path)


def _versions(
    recipe: Recipe, found: Checkpoint, data: speech.Speech, scratch: Path
) -> list[_Version]:
    """Save the original and the model after every stage."""
    torch.backends.quantized.engine = ENGINE
    original = scratch / "original" / "model.pt"
    _save(build.build(found, int8=False), original)
    versions = [_Version("original", original, None)]
    bases, options = None, CompressOptions("padded", rank=0, group=1, merged=1)
    if recipe.stages and recipe.stages[0].kind != "int8":
        raise RecipeError("the first stage of a speech recipe is int8", recipe.file)
    for spec in recipe.stages:
        if spec.kind == "screen":
            clips = [torch.from_numpy(u.samples()) for u in data.development]
            bases = compress.fit_screen(found, clips, spec.options.rank)
            options = replace(options, rank=spec.options.rank)
        elif spec.kind == "context":
            stage: ContextStage = spec.options
            options = replace(
                options,
                context="real",
                group=stage.group,
                step=stage.step,
                margin=stage.margin,
                merged=stage.merged,
            )
        path = scratch / spec.name / "model.pt"
        _save(compress.compress(found, bases, options), path)
        versions.append(_Version(spec.name, path, options))
    return versions


def _transcribe(path: Path, utterances: list[speech.Utterance], title: str) -> list[list[int]]:
    """Token ids of every utterance, one by one."""
    model: Model = torchscript.load(path)
    found = []
    with torch.inference_mode():
        for utterance in tqdm(utterances, desc=title, unit="clip", leave=False, ncols=78):
            samples = torch.from_numpy(utterance.samples())
            ids, counts = model(samples[None], torch.tensor([len(samples)]))
            found.append(ids[0, : int(counts[0])].tolist())
    return found


def _measure(
    version: _Version,
    found: Checkpoint,
    tokens: list[list[int]],
    texts: list[str],
    reference: list[str],
    data: speech.Speech,
) -> dict[str, Any]:
    measured = wer.measure([u.text for u in data.test], texts)
    same = [wer.normalise(a) == wer.normalise(b) for a, b in zip(texts, reference, strict=True)]
    positions = [cost.positions(found.spec, len(u.samples()), version.options) for u in data.test]
    return {
        "wer": measured.rate,
        "samples": measured.utterances,
        "ci95": list(measured.ci95),
        "parameters": cost.parameters(found.spec),
        "macs": round(
            statistics.mean(
                cost.macs(found.spec, place, len(row), version.options)
                for place, row in zip(positions, tokens, strict=True)
            )
        ),
        "bytes": version.path.stat().st_size,
        "agreement": sum(same) / len(same),
        "agreement_samples": len(same),
    }


def batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Samples `[batch, n]`, padded with zeros, and lengths `[batch]`."""
    rows = torch.zeros(len(clips), max(len(clip) for clip in clips))
    for row, clip in zip(rows, clips, strict=True):
        row[: len(clip)] = clip
    return rows, torch.tensor([len(clip) for clip in clips])


_RELOAD = """
import sys, torch
path, inputs, outputs, engine = sys.argv[1:]
torch.backends.quantized.engine = engine
torch.set_num_threads(1)
model = torch.jit.load(path)
with torch.inference_mode():
    torch.save([model(*b) for b in torch.load(inputs, weights_only=True)], outputs)
"""


def check_parity(path: Path, clips: list[Tensor], batch_sizes: tuple[int, ...] = (1, 3, 8)) -> None:
    """Reload a file in a fresh process: it must give the same tokens as here, batched or not.

    Raises:
        ParityError: it does not load, or answers otherwise.
    """
    pieces = [batch(clips[:size]) for size in batch_sizes if size <= len(clips)]
    model: Model = torchscript.load(path)
    with torch.inference_mode():
        expected = [model(*piece) for piece in pieces]
    with tempfile.TemporaryDirectory() as scratch:
        sent, received = Path(scratch) / "inputs.pt", Path(scratch) / "outputs.pt"
        torch.save(pieces, sent)
        command = [sys.executable, "-W", "ignore", "-c", _RELOAD]
        ran = subprocess.run(
            [*command, str(path), str(sent), str(received), ENGINE],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            raise ParityError(f"{path.name} does not run in a fresh process: {last}")
        answers = torch.load(received, weights_only=True)
    for (ids, counts), (wanted, lengths), piece in zip(answers, expected, pieces, strict=True):
        if not torch.equal(counts, lengths) or not torch.equal(ids, wanted):
            raise ParityError(
                f"{path.name} gives other tokens in a fresh process at batch {len(piece[1])}"
            )


def _latency(
    versions: dict[str, Path], clips: list[Tensor], rounds: int = 3
) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds a call of each version, by turns, on one and two threads, batch 1 and 8."""
    models: dict[str, Model] = {name: torchscript.load(path) for name, path in versions.items()}
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    kept = torch.get_num_threads()
    try:
        for threads, size in ((1, 1), (2, 1), (1, 8), (2, 8)):
            torch.set_num_threads(threads)
            pieces = [batch(clips[i : i + size]) for i in range(0, len(clips), size)]
            times: dict[str, list[float]] = {name: [] for name in models}
            with torch.inference_mode():
                for number in range(rounds + 1):
                    for piece in pieces:
                        for name, model in models.items():
                            start = time.perf_counter()
                            model(*piece)
                            if number:  # the first round warms up
                                times[name].append(time.perf_counter() - start)
            for name, values in times.items():
                cuts = statistics.quantiles(values, n=20)
                found[name][f"batch{size}_threads{threads}"] = {
                    "p50": round(statistics.median(values) * 1e3, 3),
                    "p95": round(cuts[18] * 1e3, 3),
                }
    finally:
        torch.set_num_threads(kept)
    return found


def _card(recipe: Recipe, found: Checkpoint) -> dict[str, Any]:
    spec = found.spec
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


def _write_samples(folder: Path, data: speech.Speech, texts: list[str]) -> None:
    """A few recordings that are transcribed to the letter, for the live check."""
    right = [
        (utterance, text)
        for utterance, text in zip(data.test, texts, strict=True)
        if utterance.text.strip() == text.strip() and len(text.split()) >= 5
    ]
    with files.replacing(folder) as aside:
        aside.mkdir(parents=True)
        labels = {}
        for utterance, text in right[:4]:
            name = utterance.name.replace("/", "_").removesuffix(".wav") + utterance.path.suffix
            shutil.copyfile(utterance.path, aside / name)
            labels[name] = text.strip()
        files.write_json(aside / "labels.json", labels)


def _vad() -> Path:
    package = package_folder("silero_vad")
    path = package / "data" / "silero_vad.jit" if package else None
    if path is None or not path.is_file():
        raise DataError(
            "no voice detector here: `pip install --no-deps silero-vad==6.2.3` brings it"
        )
    return path


def run(
    recipe: Recipe, folder: Path, *, resume: bool = False, say: Callable[[str], None] = print
) -> None:
    """Run a speech recipe: compress, check, measure every stage on the test split, write.

    Args:
        recipe: a checked recipe.
        folder: the artefact's.
        resume: leave a finished artefact of the same recipe and data as it is.
        say: told a line at each step.

    Raises:
        OptimizeError: data or weights are missing, or the saved file answers otherwise.
    """
    from tokenizers import Tokenizer

    data, detector = load_data(recipe.data, recipe.folder), _vad()
    say(f"data: {data.name}, {data.source}, {len(data.test)} test utterances")
    found = load_checkpoint(recipe.model, recipe.folder, recipe.checkpoint)
    say(f"model: {found.source}, {cost.parameters(found.spec) / 1e6:.1f}M parameters")
    digest = f"{recipe.digest()}:{data.fingerprint()}:{found.source}"
    if resume and report.is_current(folder, digest):
        say(f"{folder} is finished and up to date")
        return
    scratch = folder / "stages"
    shutil.rmtree(scratch, ignore_errors=True)
    versions = _versions(recipe, found, data, scratch)
    spread = [data.test[i * len(data.test) // 8] for i in range(8)]
    clips = [torch.from_numpy(u.samples()) for u in spread]
    check_parity(versions[-1].path, clips)
    say("  saved and reloaded in a fresh process: the same tokens")
    tokenizer = Tokenizer.from_file(str(found.tokenizer))
    measured: dict[str, dict[str, Any]] = {}
    texts: list[str] = []
    reference: list[str] = []
    for version in versions:
        tokens = _transcribe(version.path, data.test, version.name)
        texts = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in tokens]
        reference = reference or texts
        key = version.name if version is versions[0] else f"stage:{version.name}"
        measured[key] = _measure(version, found, tokens, texts, reference, data)
        say(f"  {version.name}: word error rate {measured[key]['wer']:.4f}")
    measured["final"] = dict(list(measured.values())[-1])
    say("  measuring latency, original (fp32, padded to 30 s) and final by turns")
    ends = {"original": versions[0].path, "final": versions[-1].path}
    for name, timed in _latency(ends, clips).items():
        measured[name]["latency_ms"] = timed
    # To the report this is a data set like any other: a name, a source, splits and notes.
    evidence = report.build(recipe, cast(Dataset, data), measured, [], 0.0, digest)
    (folder / "report.json").unlink(missing_ok=True)
    for name, source in (
        ("model.pt", versions[-1].path),
        ("tokenizer.json", found.tokenizer),
        ("vad.jit", detector),
    ):
        files.write(folder / name, lambda aside, source=source: shutil.copyfile(source, aside))  # type: ignore[misc]
    _write_samples(folder / "samples", data, texts)
    files.write_json(folder / "model.json", _card(recipe, found))
    files.write_json(folder / "report.json", evidence)
