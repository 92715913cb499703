"""What binds `report.json` to the files that it is about: digests of them, and of itself.

`optimize` writes them, `deploy` compares them when it seals an artifact and when it looks at an
archive. A worker needs none of this: what it compares is in `handlers.seal`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

OWN, CARD, FILES = "report_sha256", "card_sha256", "files"
BINDS = (OWN, CARD, FILES, "digest", "versions", "machine")
"""Entries of a report that `optimize run` wrote; one written by hand has none of them."""

# What whoever serves may set in model.json: everything else was measured as it stands.
FREE_SECTIONS = ("serving",)
FREE_MODEL = ("threads", "batch_sizes", "alternatives")
FREE_INPUT = ("max_pixels", "max_decoded_pixels", "max_seconds", "max_windows", "max_bytes")


def canonical(value: Any) -> bytes:
    """The one way to write a JSON value: keys sorted, no spaces, UTF-8, numbers as Python does.

    Raises ValueError for what JSON cannot say (NaN).
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode("utf-8", "surrogatepass")


def report_digest(report: Mapping[str, Any]) -> str:
    """SHA-256 of a report without the entry that holds it."""
    return _sha256({key: value for key, value in report.items() if key != OWN})


def card_digest(card: Mapping[str, Any]) -> str:
    """SHA-256 of a model card without what whoever serves may set."""
    measured = {key: value for key, value in card.items() if key not in FREE_SECTIONS}
    for section, free in (("model", FREE_MODEL), ("input", FREE_INPUT)):
        entries = card.get(section)
        if isinstance(entries, Mapping):
            measured[section] = {
                key: value
                for key, value in entries.items()
                if key not in free and not (section == "input" and key.startswith("max_request_"))
            }
    return _sha256(measured)


def sealed(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with its own digest, for the moment before it is written."""
    written = json.loads(json.dumps(report, allow_nan=False))  # as it will be read
    return {**written, OWN: report_digest(written)}


def is_untouched(report: Mapping[str, Any]) -> bool:
    """Whether a report is as it was written."""
    return report.get(OWN) == report_digest(report)


def is_bound(report: Mapping[str, Any]) -> bool:
    """Whether a report says what files it is of, or has to: it was not written by hand."""
    return any(report.get(key) for key in BINDS)


def named(report: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files that a report is about, by path in the artifact, but the card's."""
    found = dict(report.get(FILES) or {})
    for export in (report.get("exports") or {}).values():
        found |= export.get("sha256") or {}
    found.pop("model.json", None)
    return found


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical(value)).hexdigest()
