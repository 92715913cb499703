"""From a checkpoint and its compression, stage by stage, to a measured artefact.

Recordings differ in length and a transcriber returns tokens, so nothing here fits in one
tensor: the pipeline's own measurements do not apply, its report and the way an artefact is
installed do.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from optimize.data import speech
from optimize.data.dataset import Dataset
from optimize.errors import DataError
from optimize.models.whisper import build, compress, measure
from optimize.models.whisper.checkpoint import Checkpoint
from optimize.models.whisper.compress import ENGINE, CompressOptions
from optimize.pipeline import artifact
from optimize.recipe.schema import Recipe
from optimize.report import page, report
from optimize.utils import files, torchscript
from optimize.utils.packages import package_folder

Plan = dict[str, CompressOptions]
"""How the model is compressed after each stage, by the stage's name."""


@dataclass(frozen=True)
class _Version:
    """One version of the model: its scripted file, and how it encodes."""

    name: str
    path: Path
    options: CompressOptions | None


def _versions(
    found: Checkpoint, plan: Plan, clips: list[torch.Tensor], scratch: Path
) -> list[_Version]:
    """Save the original and the model after every stage; `clips` are for development."""

    def save(name: str, model: torch.nn.Module, options: CompressOptions | None) -> _Version:
        path = scratch / name / "model.pt"
        with torchscript.silenced():
            torchscript.save(torch.jit.script(model), path)
        return _Version(name, path, options)

    torch.backends.quantized.engine = ENGINE
    versions = [save("original", build.build(found, int8=False), None)]
    bases, rank = None, 0
    for name, options in plan.items():
        if options.rank != rank:
            bases, rank = compress.fit_screen(found, clips, options.rank), options.rank
        versions.append(save(name, compress.compress(found, bases, options), options))
    return versions


def _measure(
    found: Checkpoint,
    versions: list[_Version],
    data: speech.Speech,
    say: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the report says of every version, and the texts of the last one."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(found.tokenizer))
    measured: dict[str, dict[str, Any]] = {}
    texts: list[str] = []
    reference: list[str] = []
    for version in versions:
        tokens = measure.transcribe(version.path, data.test, version.name)
        texts = [str(tokenizer.decode(row, skip_special_tokens=True)) for row in tokens]
        reference = reference or texts
        key = version.name if version is versions[0] else f"stage:{version.name}"
        row = measure.score(found.spec, version.options, data.test, tokens, texts, reference)
        measured[key] = {**row, "bytes": version.path.stat().st_size}
        say(f"  {version.name}: word error rate {row['wer']:.4f}")
    measured["final"] = dict(list(measured.values())[-1])
    return measured, texts


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


def detector() -> Path:
    """silero-vad's TorchScript file; DataError where its package is not installed."""
    package = package_folder("silero_vad")
    path = package / "data" / "silero_vad.jit" if package else None
    if path is None or not path.is_file():
        raise DataError(
            "no voice detector here: `pip install --no-deps silero-vad==6.2.3` brings it"
        )
    return path


def make(
    recipe: Recipe,
    plan: Plan,
    card: dict[str, Any],
    found: Checkpoint,
    data: speech.Speech,
    folder: Path,
    *,
    digest: str,
    say: Callable[[str], None],
) -> None:
    """Compress, check, measure every stage on the test split, install.

    Args:
        recipe: a checked recipe.
        plan: see `Plan`.
        card: the artefact's model.json.
        found: the weights.
        data: the recordings.
        folder: the artefact's.
        digest: of everything that decides the result.
        say: told a line at each step.

    Raises:
        OptimizeError: the voice detector is missing, or the saved file answers otherwise.
    """
    voice, scratch = detector(), folder / "stages"
    shutil.rmtree(scratch, ignore_errors=True)
    clips = [torch.from_numpy(u.samples()) for u in data.development]
    versions = _versions(found, plan, clips, scratch)
    spread = [data.test[i * len(data.test) // 8] for i in range(8)]
    heard = [torch.from_numpy(u.samples()) for u in spread]
    measure.check_parity(versions[-1].path, heard)
    say("  saved and reloaded in a fresh process: the same tokens")
    measured, texts = _measure(found, versions, data, say)
    say("  measuring latency, original (fp32, padded to 30 s) and final by turns")
    ends = {"original": versions[0].path, "final": versions[-1].path}
    for name, timed in measure.latency(ends, heard).items():
        measured[name]["latency_ms"] = timed
    # To the report this is a data set like any other: a name, a source, splits and notes.
    evidence = report.build(recipe, cast(Dataset, data), measured, [], 0.0, digest)
    ready = scratch / "ready"
    ready.mkdir()
    for name, source in (
        ("model.pt", versions[-1].path),
        ("tokenizer.json", found.tokenizer),
        ("vad.jit", voice),
    ):
        shutil.copyfile(source, ready / name)
    _write_samples(ready / "samples", data, texts)
    files.write_json(ready / "model.json", card)
    page.write(ready, evidence)
    files.write_json(ready / "report.json", evidence)
    artifact.install(scratch, folder)
