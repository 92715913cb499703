"""From an artifact to an answer: archive, start, register, ask, show; skips what is up to date."""

import json
from dataclasses import dataclass
from pathlib import Path

from deploy.archive import mar
from deploy.archive.card import read_card, read_report
from deploy.archive.mar import Archive
from deploy.errors import BadInput
from deploy.progress import Say
from deploy.summary import (
    answered_label,
    compact,
    engine_lines,
    headline,
    next_steps,
    short_path,
    size,
)
from deploy.torchserve import config as configuration
from deploy.torchserve import server
from deploy.torchserve.inference import Inference, content_type
from deploy.torchserve.rollout import ensure_registered


@dataclass(frozen=True)
class Place:
    """The folders and settings in use; `workdir` is the folder that TorchServe runs in."""

    workdir: Path
    config: Path
    model_store: Path
    artifacts: Path


def serve(
    name: str,
    place: Place,
    force: bool = False,
    engines: tuple[str, ...] = (),
    say: Say = print,
) -> None:
    """Serve artifact `name` and show a real answer. Raises DeployError with what to do.

    `engines` are exports to pack too; the worker serves from the fastest.
    """
    artifact = place.artifacts / name
    sealed = ensure_archive(artifact, place.model_store, force, engines, say)
    settings = configuration.read(place.config)
    management, inference = server.clients(place.workdir, settings)
    if server.running(place.workdir) or server.answers(inference):
        say(f"server    running at {settings.inference}")
    else:
        server.start(place.workdir, place.config, place.model_store)
        management, inference = server.clients(place.workdir, settings)
        logs = short_path(place.workdir / "logs")
        say(f"server    started at {settings.inference}, logs in {logs}")
    ensure_registered(sealed, management, place.workdir, say)
    if engines:
        for line in engine_lines(management.describe(name, None, True)):
            say(line)
    sample = _ask(name, artifact, inference, say)
    say("")
    for line in headline(read_report(artifact)):
        say(line)
    say("")
    for line in next_steps(name, settings, sample):
        say(line)


def ensure_archive(
    artifact: Path, model_store: Path, force: bool, engines: tuple[str, ...], say: Say
) -> Archive:
    """Build the artifact's archive unless the one in the model store holds the same content."""
    card = read_card(artifact)
    path = model_store / f"{card.name}.mar"
    if mar.is_stale(artifact, path, engines=engines):
        sealed = mar.seal(artifact, model_store, force=force, engines=engines)
        state = "built"
    else:
        sealed = mar.verify(path)
        state = "up to date"
    say(f"archive   {short_path(path)}, {size(sealed.bytes)}, {state}")
    return sealed


def _ask(name: str, artifact: Path, inference: Inference, say: Say) -> Path | None:
    """Send the artifact's first sample and show the answer; None where it has no samples."""
    sample, label = _sample(artifact / "samples")
    if sample is None:
        say("answer    not asked: the artifact has no samples/")
        return None
    reply = inference.predict(name, sample.read_bytes(), content_type(sample))
    verdict = ""
    if label is not None:
        verdict = " (right)" if answered_label(reply) == label else f" (wrong, it is {label})"
    say(f"sample    {short_path(sample)}")
    say(f"answer    {compact(reply)}{verdict}")
    return sample


def _sample(folder: Path) -> tuple[Path | None, str | None]:
    """A file to send and its label, a labelled one if there is any."""
    try:
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        labels = {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / 'labels.json'} cannot be read: {error}") from error
    files = sorted(p for p in folder.glob("*") if p.is_file() and p.name != "labels.json")
    labelled = [p for p in files if p.name in labels]
    if labelled:
        return labelled[0], str(labels[labelled[0].name])
    return (files[0], None) if files else (None, None)
