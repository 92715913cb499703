"""From an artefact to an answer: archive, start, register, ask, show. What is done is kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.archive import mar
from deploy.archive.card import read_card, read_report
from deploy.archive.mar import Archive
from deploy.errors import BadInput
from deploy.torchserve import config as configuration
from deploy.torchserve import server
from deploy.torchserve.inference import Inference, content_type
from deploy.torchserve.rollout import ensure_registered

Say = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where things lie; `workdir` is the folder that TorchServe runs in."""

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
    """Serve artefact `name` and show a real answer. Raises DeployError with what to do.

    `engines` are exports that go into the archive; the worker takes the fastest.
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
        say(f"server    started at {settings.inference}, logs in {_short(place.workdir / 'logs')}")
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
    """Build the artefact's archive unless the one in the model store holds the same content."""
    card = read_card(artifact)
    path = model_store / f"{card.name}.mar"
    if mar.is_stale(artifact, path, engines=engines):
        sealed = mar.seal(artifact, model_store, force=force, engines=engines)
        state = "built"
    else:
        sealed = mar.verify(path)
        state = "up to date"
    say(f"archive   {_short(path)}, {size(sealed.bytes)}, {state}")
    return sealed


def engine_lines(described: list[dict[str, Any]]) -> list[str]:
    """The file that serves, and what the others took or why they did not run."""
    engine = described[0].get("customizedMetadata", {}).get("engine", {})
    lines = [f"engine    {engine.get('file')} serves"]
    for file, times in engine.get("milliseconds", {}).items():
        lines.append(f"          {file}: {' / '.join(f'{ms:.3g}' for ms in times)} ms")
    for file, why in engine.get("skipped", {}).items():
        lines.append(f"          {file}: not here: {why}")
    return lines


def headline(report: dict[str, Any]) -> list[str]:
    """The report's main line as a small table: accuracy, size and latency, before and after."""
    before, after = report.get("original", {}), report.get("final", {})
    lines = []
    metric = report.get("metric", {})
    name = metric.get("name")
    if name in before and name in after:
        scale, digits = metric["scale"], metric["digits"]
        first, last = (f"{scale * m[name]:.{digits}f} {metric['unit']}" for m in (before, after))
        change = f"{scale * (after[name] - before[name]):+.{digits}f} {metric['change_unit']}"
        samples = f"{after['samples']:,} samples" if "samples" in after else "held-out samples"
        lines.append(_row(name, first, last, f"{change} on {samples}"))
    if before.get("bytes") and after.get("bytes"):
        ratio = before["bytes"] / after["bytes"]
        lines.append(
            _row("size", size(before["bytes"]), size(after["bytes"]), f"{ratio:.1f}x smaller")
        )
    try:
        slow, fast = (m["latency_ms"]["batch1_threads1"]["p50"] for m in (before, after))
        lines.append(
            _row(
                "latency",
                f"{slow:.3g} ms",
                f"{fast:.3g} ms",
                f"{slow / fast:.1f}x faster (batch 1, 1 thread)",
            )
        )
    except (KeyError, TypeError, ZeroDivisionError):
        pass
    return [_row("", "before", "after", "").rstrip(), *lines] if lines else []


def next_steps(name: str, settings: configuration.Config, sample: Path | None) -> list[str]:
    """Commands to try next, to be pasted into a shell in the repository."""
    picture = str(_short(sample)) if sample else "FILE"
    bearer = '-H "Authorization: Bearer $T"'
    token = "$(.venv/bin/python -m deploy token"
    return [
        "Try next (keys last an hour; `deploy token` prints the current one):",
        f"  T={token})",
        f"  curl {bearer} \\",
        f"    -T {picture} \\",
        f"    {settings.inference}/predictions/{name}",
        f"  T={token} management)",
        f"  curl {bearer} \\",
        f"    '{settings.management}/models/{name}?customized=true'",
        f"  curl {settings.metrics}/metrics",
        "  make stop",
    ]


def size(count: int) -> str:
    """Bytes for people, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


def _ask(name: str, artifact: Path, inference: Inference, say: Say) -> Path | None:
    """Send the artefact's first sample and show the answer; None where it has no samples."""
    sample, label = _sample(artifact / "samples")
    if sample is None:
        say("answer    not asked: the artefact has no samples/")
        return None
    reply = inference.predict(name, sample.read_bytes(), content_type(sample))
    verdict = ""
    if label is not None:
        verdict = " (right)" if answered_label(reply) == label else f" (wrong, it is {label})"
    say(f"sample    {_short(sample)}")
    say(f"answer    {_compact(reply)}{verdict}")
    return sample


def answered_label(reply: Any) -> str | None:
    """The first label of a classifier's answer, or the text of a recogniser's."""
    if isinstance(reply, dict):
        predictions = reply.get("predictions")
        if isinstance(predictions, list) and predictions and isinstance(predictions[0], dict):
            return str(predictions[0].get("label"))
        for key in ("label", "text"):
            if isinstance(reply.get(key), str):
                return str(reply[key])
    return None


def _compact(reply: Any) -> str:
    if isinstance(reply, dict) and isinstance(reply.get("predictions"), list):
        shown = [
            f"{p['label']} {p['probability']:.3f}"
            for p in reply["predictions"][:2]
            if isinstance(p, dict) and {"label", "probability"} <= p.keys()
        ]
        if shown:
            return ", ".join(shown)
    text = reply if isinstance(reply, str) else json.dumps(reply)
    return text if len(text) <= 160 else text[:157] + "..."


def _sample(folder: Path) -> tuple[Path | None, str | None]:
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


def _row(name: str, before: str, after: str, note: str) -> str:
    return f"{name:<9} {before:>11} {after:>11}   {note}"


def _short(path: Path) -> Path:
    """`path` relative to the current folder where it lies inside it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path
