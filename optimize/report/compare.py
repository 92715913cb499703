"""Two artifacts side by side, from their reports: 80 columns for a terminal."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from optimize.errors import OptionError
from optimize.evaluation.metrics import Metric
from optimize.report.report import SCHEMA, check_untouched, size

_LABEL, _VALUE, _RATIO = 23, 19, 17


def whole(folder: Path) -> dict[str, Any]:
    """A report that is complete and fits `report.schema.json`.

    Raises:
        OptionError: the folder is no artifact, or its report is damaged, partial or not ours.
        EvidenceError: it was edited after the run.
    """
    if not folder.is_dir():
        raise OptionError(f"{folder} is not a folder; name an artifact, as in artifacts/fashion")
    path = folder / "report.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise OptionError(
            f"{folder} has no report.json: `python -m optimize run RECIPE --output {folder}` "
            "writes it at the end (add --resume if a run was interrupted)"
        ) from error
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {error}; run the recipe again") from error
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    problem = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(schema).iter_errors(found)
    )
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the top"
        raise OptionError(
            f"{path} is not a report of this program's: {problem.message[:120]} (at {where}); "
            "run the recipe again"
        )
    check_untouched(found, path)
    metric = Metric.of(found)
    rows = {s["name"]: s for s in found["stages"]} | {k: found[k] for k in ("original", "final")}
    for name, row in rows.items():
        if not metric.holds(row.get(metric.name)):
            raise OptionError(
                f"{path} is not a report of this program's: {metric.name} of {name} is "
                f"{row.get(metric.name)!r}; run the recipe again"
            )
    return found  # type: ignore[no-any-return]


def compare(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Lines of at most 80 columns: a row per figure, the second against the first.

    Raises:
        OptionError: they are measured in different metrics.
    """
    a, b = first["final"], second["final"]
    metric = _shared_metric(first, second)
    name = metric.name
    lines = [_row("", first["recipe"], second["recipe"], "second"), "-" * 78]

    def points(difference: float) -> str:
        return metric.change(difference).replace("points", "pt")

    def row(label: str, of: Callable[[dict[str, Any]], str], note: str = "") -> None:
        lines.append(_row(label, of(first), of(second), note))

    row(name, lambda r: f"{r['final'][name]:.4f}", points(b[name] - a[name]))
    row("95% interval", lambda r: f"{r['final']['ci95'][0]:.3f}-{r['final']['ci95'][1]:.3f}")
    row("samples", lambda r: str(r["final"]["samples"]))
    row(
        "against its original",
        lambda r: points(r["final"][name] - r["original"][name]),
    )
    row("agreement", lambda r: f"{r['final']['agreement']:.4f}")
    for key, label in (("parameters", "parameters"), ("macs", "multiply-adds")):
        row(label, lambda r, key=key: f"{r['final'][key]:,}", _ratio(a[key], b[key]))  # type: ignore[misc]
    row(
        "file",
        lambda r: size(r["final"]["bytes"]),
        _ratio(a["bytes"], b["bytes"], "smaller", "larger"),
    )
    for key in sorted(set(a["latency_ms"]) | set(b["latency_ms"])):
        then, now = (m["latency_ms"].get(key, {}).get("p50") for m in (a, b))
        batch, _, threads = key.removeprefix("batch").partition("_threads")
        lines.append(
            _row(
                f"ms, batch {batch}, {threads} thread{'s' * (threads != '1')}",
                "" if then is None else f"{then:.4g}",
                "" if now is None else f"{now:.4g}",
                _ratio(then, now, "faster", "slower") if then and now else "",
            )
        )
    row("stages", lambda r: "+".join(s["name"] for s in r["stages"]) or "none")
    row("gate", lambda r: "passed" if r["gate"]["passed"] else "FAILED")
    return [*lines, *_warnings(first, second)]


def as_json(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The same for programs: both models' figures, in the units of `report.json`.

    Returns:
        `metric`, a report's; `first` and `second`, each with `recipe`, `value` in the metric,
        `ci95`, `samples`, `drop` against its own original, `agreement`, `parameters`, `macs`,
        `bytes`, `latency_ms` (medians by batch and threads), `stages` and `passed`; and `notes`
        on what makes them incomparable.

    Raises:
        OptionError: they are measured in different metrics.
    """
    metric = _shared_metric(first, second)

    def figures(report: dict[str, Any]) -> dict[str, Any]:
        final = report["final"]
        same = ("ci95", "samples", "agreement", "parameters", "macs", "bytes")
        return {
            "recipe": report["recipe"],
            "value": final[metric.name],
            "drop": report["gate"]["drop"],
            **{key: final.get(key) for key in same},
            "latency_ms": {key: found["p50"] for key, found in final["latency_ms"].items()},
            "stages": [stage["name"] for stage in report["stages"]],
            "passed": report["gate"]["passed"],
        }

    return {
        "metric": first["metric"],
        "first": figures(first),
        "second": figures(second),
        "notes": [text.removeprefix("note: ") for text in _warnings(first, second)],
    }


def _shared_metric(first: dict[str, Any], second: dict[str, Any]) -> Metric:
    metric = Metric.of(first)
    if Metric.of(second) != metric:
        raise OptionError(
            f"{first['recipe']} is measured in {metric.name} and {second['recipe']} is not: "
            "artifacts of different tasks cannot be compared"
        )
    return metric


def _row(label: str, first: str, second: str, note: str) -> str:
    def cut(text: str) -> str:
        return text if len(text) < _VALUE else text[: _VALUE - 2] + "…"

    return (
        f"{label:<{_LABEL}}{cut(first):>{_VALUE}}{cut(second):>{_VALUE}}{note:>{_RATIO}}".rstrip()
    )


def _ratio(then: float, now: float, better: str = "fewer", worse: str = "more") -> str:
    """`2.10x faster`."""
    if not then or not now:
        return ""
    ratio = then / now
    if 0.995 <= ratio <= 1.005:
        return "same"
    ratio, word = (ratio, better) if ratio > 1 else (1 / ratio, worse)
    return f"{ratio:.3g}x {word}"


def _warnings(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What makes rows incomparable."""
    found = []
    if first["data"]["fingerprint"] != second["data"]["fingerprint"]:
        found.append("note: measured on different data; the quality rows cannot be compared")
    if first["machine"]["processor"] != second["machine"]["processor"]:
        found.append("note: measured on different processors; so are the latencies")
    elif first["created"][:13] != second["created"][:13]:
        found.append("note: latencies come from two runs at different times; trust large ratios")
    for key in ("torch", "python"):
        one, other = first["versions"].get(key), second["versions"].get(key)
        if one != other:
            found.append(f"note: {key} {one} and {other}")
    return found
