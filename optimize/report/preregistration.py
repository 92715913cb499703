"""The budget, fixed before the test split is measured for the first time.

A threshold that is chosen after the result was seen proves nothing. What the gate will ask is
therefore written beside the artifact, with its digest, before the first model is measured on the
test split; the report carries both. A run that finds another budget there, of the same data, was
given its own after a measurement, and its report says so.
"""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

from optimize.evaluation.metrics import Metric
from optimize.recipe.schema import Budget
from optimize.utils import files

FILE = "preregistration.json"


def protocol(task: str, metric: Metric, fingerprint: str, samples: int, budget: Budget) -> Any:
    """What is fixed: the metric, the data's fingerprint, the test split's size, the budget."""
    return {
        "task": task,
        "metric": metric.name,
        "data": fingerprint,
        "samples": samples,
        "budget": {
            "max_drop": budget.max_drop,
            "min_agreement": budget.min_agreement,
            "files_drop": budget.files_drop,
            "floor": budget.floor,
        },
    }


def digest(protocol: Any) -> str:
    """SHA-256 of a protocol's canonical JSON: sorted keys, no spaces."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def fix(folder: Path, protocol: Any) -> dict[str, Any]:
    """Write down what the gate will ask, before the caller measures.

    Args:
        folder: the artifact's; what earlier runs fixed there is kept.
        protocol: from `protocol`.

    Returns:
        The report's section: the protocol, its digest, when it was first fixed there, and the
        `earlier` ones on the same data, whose models had been measured by then.

    Raises:
        StorageError: the folder cannot be written to.
    """
    known = _read(folder / FILE)
    ours = digest(protocol)
    same_data = [one for one in known if one["protocol"]["data"] == protocol["data"]]
    found = next((one for one in same_data if one["digest"] == ours), None)
    if found is None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        found = {"digest": ours, "at": now, "protocol": protocol}
        files.write_json(folder / FILE, {"fixed": [*known, found]})
        same_data.append(found)
    return {**found, "earlier": same_data[: same_data.index(found)]}


def changed(section: dict[str, Any]) -> str:
    """What the gate says of a budget that was changed after a measurement; "" if it was not."""
    if not section["earlier"]:
        return ""
    first = section["earlier"][0]
    before, after = first["protocol"]["budget"], section["protocol"]["budget"]
    which = [f"{key} was {before[key]}" for key in after if before.get(key) != after[key]]
    return (
        f"the budget was changed after the test split had been measured: until {section['at']} "
        f"{', '.join(which) or 'the metric was another'}"
    )


def _read(path: Path) -> list[dict[str, Any]]:
    """What is written there; nothing for a file that is missing or no longer what it was."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["fixed"]
        return [one for one in entries if digest(one["protocol"]) == one["digest"] and one["at"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
