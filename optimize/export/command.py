"""`python -m optimize export`: write to a temporary folder, check, then publish or delete."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optimize.errors import ExportRefused, RecipeError
from optimize.evaluation.metrics import Metric
from optimize.export import check, source, subjects
from optimize.export.convert import convert
from optimize.export.formats import registry
from optimize.export.formats.interface import Format, Limits
from optimize.export.runner import Runner
from optimize.export.subject import Exportable
from optimize.pipeline import lock
from optimize.report import report
from optimize.utils import files, pickles

Say = Callable[[str], None]


def key(name: str, form: Format, precision: str) -> str:
    """Name in the report and under `exports/`; the first precision has no suffix."""
    return name if precision == next(iter(form.PRECISIONS)) else f"{name}-{precision}"


def formats(names: list[str], precisions: list[str]) -> dict[str, tuple[Format, list[str]]]:
    """Each named format with the precisions to write; all it has if none are named.

    Raises:
        RecipeError: an unknown format or precision.
        ExtraMissing: a package is not installed.
    """
    loaded = {name: registry.load(name) for name in names}
    available = sorted({p for form in loaded.values() for p in form.PRECISIONS})
    for precision in precisions:
        if precision not in available:
            raise RecipeError(f"no precision {precision!r} here; there are {', '.join(available)}")
    return {
        name: (form, [p for p in form.PRECISIONS if not precisions or p in precisions])
        for name, form in loaded.items()
    }


def run(
    folder: Path,
    names: list[str],
    *,
    precisions: list[str] | None = None,
    recipe: Path | None = None,
    overrides: list[str] | None = None,
    timed: bool = True,
    say: Say = print,
) -> None:
    """Export an artifact to every format named.

    Args:
        folder: the artifact's.
        names: of formats.
        precisions: of the files; all that a format has if left out.
        recipe, overrides: what made the artifact; see `source.recipe_of`.
        timed: measure latency too.
        say: called with a line at each step.

    Raises:
        ExportRefused: a file failed its check and was deleted; the others are complete.
        OptimizeError: nothing was exported: a package, the recipe or the stages are missing.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # as Ctrl-C: leaves no partial files, no orphans
    report.read(folder)  # before a folder is made or locked
    chosen = formats(names, precisions or [])
    with lock.held(folder):
        files.sweep_private()
        _run(folder, chosen, recipe, overrides or [], timed, say)


def _run(
    folder: Path,
    chosen: dict[str, tuple[Format, list[str]]],
    recipe: Path | None,
    overrides: list[str],
    timed: bool,
    say: Say,
) -> None:
    evidence = report.read(folder)
    used = source.recipe_of(folder, evidence, recipe, overrides)
    exportable = subjects.load(used, folder, evidence)
    metric = exportable.metric
    files.sweep(folder)
    modules = {subject.name: subject for subject in exportable}
    references: dict[int | None, dict[str, Any]] = {}
    served = _served_score(folder, exportable)
    failures = []
    for name, (form, to_write) in chosen.items():
        limit = getattr(form, "RECORDINGS", None)
        if limit not in references:
            references[limit] = exportable.evaluate(dict(modules), limit)
            say(f"{folder}: {_score(metric, references[limit])} in PyTorch, float32")
        reference = references[limit]
        for precision in to_write:
            title = key(name, form, precision)
            start = time.monotonic()
            try:
                entry = one(folder, name, form, precision, exportable, reference, timed=timed)
            except ExportRefused as error:
                _discard(folder, title, evidence["digest"])
                say(f"  {title}: refused and deleted: {error}")
                failures.append(f"{title} ({error})")
                continue
            if served is not None:
                entry["served_drop"] = metric.lost(served[metric.name], entry[metric.name])
            _record(folder, title, {**entry, "digest": evidence["digest"]})
            say(
                f"  {title}: {report.size(entry['bytes'])}, parity {entry['parity']:.2g}, "
                f"{_score(metric, entry)}{_ratio(entry)} [{time.monotonic() - start:.0f} s]"
            )
    if failures:
        raise ExportRefused(f"not exported: {'; '.join(failures)}")


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def one(
    folder: Path,
    name: str,
    form: Format,
    precision: str,
    exportable: Exportable,
    reference: dict[str, Any],
    *,
    timed: bool = True,
) -> dict[str, Any]:
    """Export in one format and precision, check, and put the files into `exports/`.

    Returns:
        The report's entry.

    Raises:
        ExportRefused: it cannot be exported or failed its check; its files are removed.
    """
    limits = form.PRECISIONS[precision]
    target = folder / "exports" / key(name, form, precision)
    artifact = folder.resolve().name
    with files.replacing(target) as aside, ExitStack() as open_runners:
        parts = {s.name: aside / form.file(artifact, s.name) for s in exportable}
        for subject in exportable:
            parts[subject.name].parent.mkdir(parents=True, exist_ok=True)
            convert(name, subject, parts[subject.name], precision)
        runners = {
            part: open_runners.enter_context(Runner(name, path)) for part, path in parts.items()
        }
        parity = _parity(exportable, runners, limits)
        quantized = sum(check.quantized(runner, limits) for runner in runners.values())
        measured = exportable.evaluate(dict(runners), getattr(form, "RECORDINGS", None))
        check.quality(measured, reference, exportable.metric, limits)
        ratios = None
        if timed and getattr(form, "TIMED", True):
            with ExitStack() as rivals:
                others = _rivals(folder, exportable, rivals)
                ratios = check.latency_ratios(exportable, runners, others)
        proves = getattr(form, "PROVES", "")
        return {
            "format": name,
            "precision": precision,
            "file": f"exports/{target.name}/{next(iter(parts.values())).relative_to(aside)}",
            "files": [
                f"exports/{target.name}/{path.relative_to(aside)}" for path in parts.values()
            ],
            "sha256": {
                f"exports/{target.name}/{path}": digest
                for path, digest in files.digests(aside).items()
            },
            "bytes": _bytes(aside),
            "parity": max(parity.values()),
            "parity_at": parity,
            "quantized": quantized,
            **measured,
            "latency_ratio": _first(ratios),
            "latency_ratios": ratios,
            "versions": registry.versions(form),
            "notes": [*exportable.notes, *([proves] if proves else [])],
        }


def _parity(exportable: Exportable, runners: dict[str, Runner], limits: Limits) -> dict[str, float]:
    """Errors by sizes, see `check.parity`; of several subjects also by the subject's name."""
    errors: dict[str, float] = {}
    for subject in exportable:
        for sizes, error in check.parity(subject, runners[subject.name], limits).items():
            errors[sizes if len(runners) == 1 else f"{subject.name}: {sizes}"] = error
    return errors


def _rivals(folder: Path, exportable: Exportable, stack: ExitStack) -> dict[str, dict[str, Runner]]:
    """Runners of the eager module and, if it takes the same inputs, of the served file."""
    scratch = stack.enter_context(files.private())
    eager = {}
    for subject in exportable:
        path = scratch / f"{subject.name}.pt"
        pickles.save(subject.module, path)
        eager[subject.name] = stack.enter_context(Runner("eager", path))
    others = {"eager": eager}
    if _is_served(folder, exportable):
        runner = stack.enter_context(_served(folder))
        others["served"] = {subject.name: runner for subject in exportable}
    return others


def _is_served(folder: Path, exportable: Exportable) -> bool:
    return exportable.served and (folder / "model.pt").is_file()


def _served(folder: Path) -> Runner:
    return Runner("served", folder / "model.pt", _engine(folder))


def _served_score(folder: Path, exportable: Exportable) -> dict[str, Any] | None:
    """The served file's score on the same samples; None if it takes other inputs."""
    if not _is_served(folder, exportable):
        return None
    with _served(folder) as runner:
        return exportable.evaluate({subject.name: runner for subject in exportable})


def _engine(folder: Path) -> str | None:
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    engine: str | None = card["model"]["quantized_engine"]
    return engine


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _record(folder: Path, title: str, entry: dict[str, Any] | None) -> None:
    """Set one entry of the report's `exports`, or remove it if `entry` is None."""
    evidence = report.read(folder)
    evidence["exports"].pop(title, None)
    if entry is not None:
        evidence["exports"][title] = entry
    report.write(folder, evidence)


def _discard(folder: Path, title: str, digest: str) -> None:
    """Remove an older file of that name, unless it passed its check for the same model."""
    entry = report.read(folder)["exports"].get(title)
    if entry is not None and entry.get("digest") == digest:
        return
    shutil.rmtree(folder / "exports" / title, ignore_errors=True)
    if entry is not None:
        _record(folder, title, None)


def _score(metric: Metric, measured: dict[str, Any]) -> str:
    value, agreement = measured[metric.name], measured["agreement"]
    return f"{metric.name} {value:.4f} on {measured['samples']}, agreement {agreement:.3f}"


def _first(ratios: dict[str, dict[str, float]] | None) -> float | None:
    """The ratio at batch 1 to the served file, or to the eager module if there is none."""
    if not ratios:
        return None
    return next(iter(ratios.get("served", ratios["eager"]).values()), None)


def _ratio(entry: dict[str, Any]) -> str:
    return "".join(
        f", {title} {ratio:.2f}x the time of {name}"
        for name, ratios in (entry["latency_ratios"] or {}).items()
        for title, ratio in list(ratios.items())[:1]
    )
