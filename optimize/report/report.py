"""The evidence: what the original and every stage score, on the same held-out data."""

import datetime
import json
from pathlib import Path
from typing import Any

from handlers import binding
from optimize.data.dataset import Data
from optimize.errors import EvidenceError, ModelError
from optimize.evaluation import environment
from optimize.evaluation.chance import warning
from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Budget, Recipe
from optimize.report import notice, served
from optimize.report.advice import advise
from optimize.report.criteria import Comparator, criterion
from optimize.report.preregistration import changed
from optimize.utils import distribution, files
from optimize.utils.urls import cleaned

_TITLE = 16  # columns of a row's name in the terminal
SCHEMA = Path(__file__).with_name("report.schema.json")


def build(
    recipe: Recipe,
    data: Data,
    metric: Metric,
    measured: dict[str, dict[str, Any]],
    controls: list[dict[str, Any]],
    parity: float,
    digest: str,
    *,
    fixed: dict[str, Any],
    chance: float | None = None,
) -> dict[str, Any]:
    """Assemble `report.json`.

    Args:
        recipe: what was asked.
        data: what it was measured on.
        metric: what it was measured in.
        measured: `original`, `stage:NAME` in order, and `final`, each with its metrics.
        controls: metrics of the models trained for comparison, each with a `name`.
        parity: relative error of the reloaded file.
        digest: of recipe and data, so that a finished artifact is recognised.
        fixed: what was fixed before the measurement, from `preregistration.fix`.
        chance: the metric's value of a model that does not look at its input, if it is known.

    Returns:
        A mapping that fits `report.schema.json` once `files` and `card_sha256` hold the digests of
        the artifact's files, and it is written.
    """
    original, final = measured["original"], measured["final"]
    at_chance = warning(metric, original, chance)
    verdict = gate(recipe.budget, metric, original, final)
    verdict["reason"] = "; ".join(filter(None, (verdict["reason"], changed(fixed))))
    if not verdict["passed"]:
        verdict["advice"] = advise(recipe.budget, metric, recipe.stages, measured)
    found: dict[str, Any] = {
        "recipe": recipe.name,
        "task": recipe.task,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": recipe.seed,
        "digest": digest,
        "command": recipe.command(),
        "harness": {
            "name": distribution.NAME,
            "version": distribution.version(),
            "sha256": distribution.fingerprint(),
        },
        "versions": environment.versions(),
        "package_licences": environment.licences(),
        "machine": environment.describe(),
        "data": {
            "name": data.name,
            "source": data.source,
            "fingerprint": data.fingerprint(),
            "labels": data.labels,
            **{split: data.count(split) for split in ("train", "validation", "test")},
            "notes": data.notes,
        },
        "licences": notice.to_json(recipe.licences),
        "metric": metric.to_json(),
        "original": original,
        "stages": [
            {"name": name.removeprefix("stage:"), **metrics}
            for name, metrics in measured.items()
            if name.startswith("stage:")
        ],
        "final": final,
        binding.CARD: "",
        binding.FILES: {},
        "controls": controls,
        "parity": parity,
        "preregistration": fixed,
        "gate": verdict,
        "chance": chance,
        "warnings": [at_chance] if at_chance else [],
        "exports": {},
    }
    return cleaned(found)  # a source may be a URL with a password


def gate(
    budget: Budget, metric: Metric, original: dict[str, Any], final: dict[str, Any]
) -> dict[str, Any]:
    """Whether the final model stayed within the budget, and why not."""
    name = metric.name
    drop = metric.lost(original[name], final[name])
    tolerance = metric.tolerance(final["samples"])
    asked = [criterion(f"{name}_drop", drop, "<=", budget.max_drop, tolerance, final["samples"])]
    reasons = []
    if not asked[0]["passed"]:
        reasons.append(f"{name} lost {drop:.4f}, the budget is {budget.max_drop:.4f}")
    for title, key, row in (
        ("original", f"original_{name}", original),
        ("final model", name, final),
    ):
        if budget.floor is None:
            continue
        comparator: Comparator = ">=" if metric.higher_is_better else "<="
        found = criterion(key, row[name], comparator, budget.floor, 1e-9, row["samples"])
        asked.append(found)
        if not found["passed"]:
            bound = "least" if metric.higher_is_better else "most"
            reasons.append(
                f"{name} of the {title} is {row[name]:.4f}, the budget asks for at "
                f"{bound} {budget.floor:.4f}"
            )
    if budget.min_agreement > 0:
        samples = final.get("agreement_samples", final["samples"])
        least = budget.min_agreement
        asked.append(criterion("agreement", final["agreement"], ">=", least, 0.0, samples))
        if not asked[-1]["passed"]:
            reasons.append(
                f"agreement with the original is {final['agreement']:.3f}, the budget asks "
                f"{least:.3f}"
            )
    return {
        "criteria": asked,
        "metric": metric.name,
        "max_drop": budget.max_drop,
        "min_agreement": budget.min_agreement,
        "floor": budget.floor,
        "drop": drop,
        "passed": not reasons,
        "reason": "; ".join(reasons) or "within the budget",
    }


def write(folder: Path, report: dict[str, Any]) -> None:
    """Write an artifact's report with its own digest: whoever edits it later is found out."""
    files.write_json(folder / "report.json", binding.sealed(report))


def read(folder: Path) -> dict[str, Any]:
    """Read an artifact's report.

    Raises:
        ModelError: there is none, or it is not JSON.
        EvidenceError: it was edited after it was written.
    """
    path = folder / "report.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder} has no report.json: run `python -m optimize run` first"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    check_untouched(found, path)
    return found


def check_untouched(report: dict[str, Any], path: Path) -> None:
    """Raise EvidenceError for a report that is not as `write` wrote it."""
    if not binding.is_untouched(report):
        what = "was edited after the run" if binding.OWN in report else "holds no digest of itself"
        raise EvidenceError(f"{path} {what}, so it proves nothing: run the recipe again")


def is_current(folder: Path, digest: str) -> bool:
    """Whether the folder holds the finished artifact of this recipe and data, its files those
    that the report names; model.json may have been edited."""
    if not all((folder / name).is_file() for name in ("report.json", "model.pt", "model.json")):
        return False
    try:
        found = read(folder)
        if found.get("digest") != digest:
            return False
        named = {name: sha for name, sha in found["files"].items() if name != "model.json"}
        return all(files.sha256(folder / name) == sha for name, sha in named.items())
    except (ModelError, EvidenceError, OSError, KeyError, AttributeError):
        return False


def size(count: float) -> str:
    """Bytes for people: 1.1 MB."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def summary(report: dict[str, Any]) -> list[str]:
    """The report in a terminal: a table of at most 80 columns, then the gate."""
    name = Metric.of(report).name
    rows = [("", "metric", "params", "MACs", "file", "agree", "b1 ms")]
    entries = [("original", report["original"])]
    entries += [(stage["name"], stage) for stage in report["stages"]]
    entries += [("final", report["final"])]
    entries += [(f"({control['name']})", control) for control in report["controls"]]
    for title, metrics in entries:
        latency = metrics.get("latency_ms", {}).get("batch1_threads1", {})
        rows.append(
            (
                title,
                f"{metrics[name]:.4f}",
                f"{metrics['parameters'] / 1e3:.1f}k" if "parameters" in metrics else "",
                f"{metrics['macs'] / 1e6:.1f}M" if "macs" in metrics else "",
                size(metrics["bytes"]) if "bytes" in metrics else "",
                f"{metrics['agreement']:.3f}" if "agreement" in metrics else "",
                f"{latency['p50']:.3f}" if latency else "",
            )
        )
    table = []
    for title, *cells in rows:
        own = [title] if len(title) > _TITLE else []  # a long name has a line of its own
        first = "" if own else title
        table += [*own, f"{first:<{_TITLE}}" + "".join(f"{cell:>10}" for cell in cells)]
    return [*table, *ratios(report), *(f"warning: {text}" for text in report["warnings"])]


def ratios(report: dict[str, Any]) -> list[str]:
    """Before and after in three lines, and the gate."""
    original, final = report["original"], report["final"]
    metric = Metric.of(report)
    before, after = original[metric.name], final[metric.name]
    lines = [
        f"{metric.name:<8} {before:.4f} -> {after:.4f} "
        f"({metric.change(after - before)}, {final['samples']} samples, 95% interval "
        f"{final['ci95'][0]:.3f}-{final['ci95'][1]:.3f})",
        f"size     {size(original['bytes'])} -> {size(final['bytes'])} "
        f"({original['bytes'] / final['bytes']:.1f}x smaller)",
    ]
    for key, found in final["latency_ms"].items():
        batch, threads = (part.lstrip("batchreds") for part in key.split("_"))
        then, now = original["latency_ms"][key]["p50"], found["p50"]
        lines.append(
            f"latency  {then:.3f} -> {now:.3f} ms ({then / now:.1f}x faster, "
            f"batch {batch}, {threads} thread{'s' * (threads != '1')})"
        )
    lines += served.line(report)
    passed = "passed" if report["gate"]["passed"] else "FAILED"
    return [*lines, f"gate     {passed}: {report['gate']['reason']}"]
