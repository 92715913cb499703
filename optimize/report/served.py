"""The part of the evidence that goes through the handler from files, and its gate."""

from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Budget
from optimize.report.criteria import criterion


def add(report: dict[str, Any], measured: dict[str, Any] | None, budget: Budget) -> None:
    """Put what was measured from files into the report, and let the gate judge it.

    Args:
        report: a mapping that fits `report.schema.json`; its gate may change.
        measured: from `Task.from_files`.
        budget: of the recipe.
    """
    if measured is None:
        return
    metric = Metric.of(report)
    drop = metric.lost(measured["from_tensors"], measured["from_files"])
    report["from_files"] = {**measured, "drop": drop, "max_drop": budget.files_drop}
    gate, samples = report["gate"], measured["samples"]
    found = criterion(
        f"{metric.name}_drop_from_files",
        drop,
        "<=",
        budget.files_drop,
        metric.tolerance(samples),
        samples,
    )
    gate["criteria"].append(found)
    if found["passed"]:
        return
    reason = (
        f"{metric.name} from files through the handler is {measured['from_files']:.4f}, from the "
        f"data's tensors {measured['from_tensors']:.4f} ({measured['samples']} samples; "
        f"files_drop is {budget.files_drop:.4f}): the server's pre-processing differs from the "
        "data's"
    )
    if measured["refused"]:
        first = "; ".join(measured["first_refused"])
        reason += f". {measured['refused']} files are refused: {first}"
    gate["reason"] = reason if gate["passed"] else f"{gate['reason']}; {reason}"
    gate["passed"] = False
    gate["advice"] = [_advice(measured), *gate.get("advice", [])]


def _advice(measured: dict[str, Any]) -> str:
    """What to say in the recipe: the way of scaling that would have answered best, if one does."""
    tried = measured.get("with_resize") or {}
    best = max(tried, key=lambda name: tried[name], default="")
    lost = measured["from_tensors"] - measured["from_files"]
    if best and tried[best] > measured["from_files"] + lost / 2:
        return (
            f"with `input: {{resize: {best}}}` in the recipe it is {tried[best]:.4f}: the data "
            "seem to be made so"
        )
    return "say in the recipe's `input:` how the data's pictures are made (docs/data.md)"


def line(report: dict[str, Any]) -> list[str]:
    """One line for the terminal, if there is such a part."""
    found, metric = report.get("from_files"), Metric.of(report)
    if found is None:
        return []
    return [
        f"files    {metric.text(found['from_files'])} through the handler ({found['kind']}), "
        f"{metric.text(found['from_tensors'])} from tensors, {found['samples']} samples"
    ]


def row(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for the page's evidence."""
    found, metric = report.get("from_files"), Metric.of(report)
    if found is None:
        return []
    text = (
        f"{metric.text(found['from_files'])} through the handler, "
        f"{metric.text(found['from_tensors'])} from tensors, the same answer to "
        f"{found['agreement']:.1%} of {found['samples']:,} samples ({found['kind']})"
    )
    if found["refused"]:
        text += f"; {found['refused']} files refused"
    return [("From files", text)]
