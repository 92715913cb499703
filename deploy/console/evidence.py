"""What a model's own description claims for it, as short lines for people."""

from typing import Any

from deploy.archive.adopted import STATUS
from deploy.summary import size


def facts(told: dict[str, Any], is_adopted: bool) -> tuple[dict[str, str], bool | None]:
    """Name -> text in the order to show, and whether the report holds its budget, if there is one.

    `told` is a handler's description; values of another form than ours are left out.
    """
    found: dict[str, str] = {}
    if isinstance(told.get("task"), str):
        found["Task"] = told["task"].replace("_", " ")
    engine = told.get("engine")
    if isinstance(engine, dict) and engine.get("file"):
        found["Runs"] = str(engine["file"])
    labels = told.get("labels")
    if isinstance(labels, list) and labels:
        found["Labels"] = _some([str(label) for label in labels])
    report = told.get("report")
    if is_adopted or not isinstance(report, dict):
        found["Evidence"] = STATUS if is_adopted else "no report"
        return found, None
    gate = report.get("gate")
    passed = gate.get("passed") is True if isinstance(gate, dict) else None
    if isinstance(gate, dict):
        found["Budget"] = _budget(gate, report)
    for name, read in (("Quality", _quality), ("Size", _size), ("Latency", _latency)):
        try:
            found[name] = read(report)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # a report that says less
    return found, passed


def _quality(report: dict[str, Any]) -> str:
    metric, before, after = report["metric"], report["original"], report["final"]
    name, digits = metric["name"], int(metric["digits"])
    first, last = (f"{metric['scale'] * part[name]:.{digits}f}" for part in (before, after))
    count = f" on {after['samples']:,} samples" if "samples" in after else ""
    return f"{metric.get('title', name)} {last} {metric['unit']}, was {first}{count}"


def _size(report: dict[str, Any]) -> str:
    return f"{size(report['final']['bytes'])}, was {size(report['original']['bytes'])}"


def _latency(report: dict[str, Any]) -> str:
    before, after = (
        report[key]["latency_ms"]["batch1_threads1"]["p50"] for key in ("original", "final")
    )
    return f"{after:.3g} ms, was {before:.3g} ms (p50, batch 1, 1 thread)"


def _budget(gate: dict[str, Any], report: dict[str, Any]) -> str:
    if gate.get("passed") is not True:
        return f"missed: {gate.get('reason') or 'its report does not say why'}"
    try:
        metric = report["metric"]
        lost, most = (metric["scale"] * gate[key] for key in ("drop", "max_drop"))
        digits, unit = int(metric["digits"]), metric["change_unit"]
        amount = f"{lost:.{digits}f}" if lost > 0 else "none"
        return f"held: lost {amount} of at most {most:.{digits}f} {unit}"
    except (KeyError, TypeError, ValueError):
        return "held"


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:4])
    return shown if len(labels) <= 4 else f"{shown} and {len(labels) - 4} more"
