"""The artifact's samples, put to a served version: does it answer as the report leads to expect?"""

import contextlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import BadInput, DeployError, Unproven
from deploy.summary import answered_label

# A version is refused where so few right answers had less than this chance.
DOUBT = 0.01
# Where the report has no share of right answers, the task chose samples that were answered right.
CHOSEN = 0.95
# Numbers differ so much at most, relative or absolute: kernels sum in other orders elsewhere.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Sample:
    """A file to send and its label, None where there is none."""

    path: Path
    label: str | None


@dataclass(frozen=True)
class Asked:
    """A sample and its answer; `right` is None where nothing says what is right."""

    sample: Sample
    reply: Any
    right: bool | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        about = {"sample": str(self.sample.path), "label": self.sample.label}
        return {**about, "answer": self.reply, "right": self.right}


def read(folder: Path) -> list[Sample]:
    """The samples of an artifact's `samples/`, the labelled ones first. Raises BadInput."""
    try:
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        labels = {}
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / 'labels.json'} cannot be read: {error}") from error
    if not isinstance(labels, dict):
        raise BadInput(f"{folder / 'labels.json'} must hold an object: file name to label")
    files = sorted(p for p in folder.glob("*") if p.is_file() and p.name != "labels.json")
    samples = [Sample(p, str(labels[p.name]) if p.name in labels else None) for p in files]
    return sorted(samples, key=lambda sample: sample.label is None)


def ask(
    samples: list[Sample], predict: Callable[[Path], Any], report: dict[str, Any]
) -> list[Asked]:
    """Put every sample to `predict` and compare the answers with the labels.

    Raises Unproven if one is not answered, or if too many answers are wrong for what the report
    says.
    """
    asked = []
    for sample in samples:
        try:
            reply = predict(sample.path)
        except DeployError as error:
            raise Unproven(f"it does not answer {sample.path}: {error}") from error
        asked.append(Asked(sample, reply, _right(reply, sample.label)))
    judged = [one for one in asked if one.right is not None]
    right = sum(one.right is True for one in judged)
    expected = _expected(report)
    if chance(right, len(judged), expected) < DOUBT:
        wrong = next(one for one in judged if not one.right)
        raise Unproven(
            f"it answers {right} of {len(judged)} samples right where the report says "
            f"{expected:.1%}: {wrong.sample.path} is {wrong.sample.label!r}, "
            f"not {answered_label(wrong.reply)!r}"
        )
    return asked


def chance(right: int, count: int, share: float) -> float:
    """How likely `right` or fewer of `count` answers are right, if a `share` of all is."""
    return sum(
        math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(right + 1)
    )


def _expected(report: dict[str, Any]) -> float:
    """The share of right answers that a report leads to expect."""
    metric, final = report.get("metric"), report.get("final")
    if not isinstance(metric, dict) or not isinstance(final, dict):
        return CHOSEN
    names = ["accuracy"]
    if metric.get("higher_is_better", True) and metric.get("most") == 1:
        names.append(str(metric.get("name")))
    for name in names:
        value = final.get(name)
        if isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
    return CHOSEN


def _right(reply: Any, label: str | None) -> bool | None:
    """Whether an answer is what the label says: words, or a JSON object of numbers by name."""
    if label is None:
        return None
    if label.startswith("{"):
        with contextlib.suppress(ValueError):
            return _near(reply, json.loads(label))
    answered = answered_label(reply)
    return None if answered is None else _words(answered) == _words(label)


def _near(found: Any, wanted: Any) -> bool:
    """Whether two JSON values are the same, numbers to within TOLERANCE."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            name in found and _near(found[name], value) for name, value in wanted.items()
        )
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(_near(a, b) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        return math.isclose(found, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(found == wanted)


def _words(text: str) -> list[str]:
    """A transcript is right whatever its commas; so is a label without letters as it stands."""
    return re.findall(r"[^\W_]+", text.casefold()) or [text]
