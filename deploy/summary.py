"""The lines that `serve` prints: the report's figures, the answer, the commands to try next."""

import json
from pathlib import Path
from typing import Any

from deploy.torchserve.config import Config


def headline(report: dict[str, Any]) -> list[str]:
    """The report's main line as a small table: accuracy, size and latency, before and after."""
    before, after = report.get("original", {}), report.get("final", {})
    lines = []
    metric = report.get("metric", {})
    name = metric.get("name")
    if name in before and name in after:
        scale, digits = metric["scale"], metric["digits"]
        first, last = (f"{scale * m[name]:.{digits}f} {metric['unit']}" for m in (before, after))
        change = _change(scale * (after[name] - before[name]), digits, metric["change_unit"])
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


def _change(difference: float, digits: int, unit: str) -> str:
    """`0.66 points lower`: a sign alone would leave open whether it was lost or gained."""
    shown = round(difference, digits)
    if not shown:
        return "unchanged"
    amount = f"{abs(shown):.{digits}f} {unit}".rstrip()
    return f"{amount} {'higher' if shown > 0 else 'lower'}"


def engine_lines(described: list[dict[str, Any]]) -> list[str]:
    """The file that serves, the milliseconds of each file timed, and why others were skipped.

    `described` is what `Management.describe` returns with `customized`.
    """
    engine = described[0].get("customizedMetadata", {}).get("engine", {})
    lines = [f"engine    {engine.get('file')} serves"]
    for file, times in engine.get("milliseconds", {}).items():
        lines.append(f"          {file}: {' / '.join(f'{ms:.3g}' for ms in times)} ms")
    for file, why in engine.get("skipped", {}).items():
        lines.append(f"          {file}: not here: {why}")
    return lines


def next_steps(name: str, settings: Config, sample: Path | None) -> list[str]:
    """Commands to try next, to paste into a shell in the repository."""
    picture = str(short_path(sample)) if sample else "FILE"
    token = ".venv/bin/python -m deploy token"
    return [
        "Try next (keys last an hour; command lines are seen by others, files are not):",
        f"  {token} --header-file .run/key",
        "  curl -H @.run/key \\",
        f"    -T {picture} \\",
        f"    {settings.inference}/predictions/{name}",
        f"  {token} management --header-file .run/admin",
        "  curl -H @.run/admin \\",
        f"    '{settings.management}/models/{name}?customized=true'",
        f"  curl {settings.metrics}/metrics",
        "  make stop",
    ]


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


def compact(reply: Any) -> str:
    """An answer in one line: its first two labels, or at most 160 characters of its JSON."""
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


def size(count: int) -> str:
    """A number of bytes as text, in powers of 1000."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"


def short_path(path: Path) -> Path:
    """`path` relative to the current folder where it lies inside it."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


def _row(name: str, before: str, after: str, note: str) -> str:
    return f"{name:<9} {before:>11} {after:>11}   {note}"
