"""What an archive claims, as an in-toto Statement v1 about the files that it was measured on.

The predicate follows the proposed `eval-result` (in-toto/attestation, pull request 575): claims of
the form "metric comparator threshold", each with its verdict. Beyond the proposal a claim carries
the measured value and its interval, which its consumers must ignore if they do not know them.
"""

import json
from collections.abc import Mapping
from typing import Any

from deploy.errors import BadInput

NAME = "statement.json"
TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/eval-result/v0.1"
EVALUATOR = "urn:marpress:whoever-signs-this"
"""Whoever ran the recipe: a statement without a signature does not say who that is."""
FINGERPRINT = "marpressDataV1"
"""The algorithm of a data set's fingerprint: SHA-256 over its samples, not over a file."""


def build(
    report: Mapping[str, Any], digests: Mapping[str, str], model_file: str
) -> dict[str, Any] | None:
    """The statement about a model, or None for a report without a budget's criteria.

    Args:
        report: the artifact's report.json.
        digests: SHA-256 of every packed file; those that the report is about are the subject.
        model_file: the name of the one that is served.

    Raises:
        BadInput: a part of the report is of another shape than the program writes.
    """
    try:
        return _build(report, digests, model_file)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise BadInput(
            f"report.json makes no statement: {str(error)[:80]}: run the recipe again"
        ) from error


def _build(
    report: Mapping[str, Any], digests: Mapping[str, str], model_file: str
) -> dict[str, Any] | None:
    gate, data, final = (report.get(key) or {} for key in ("gate", "data", "final"))
    if not gate.get("criteria") or "samples" not in final or "fingerprint" not in data:
        return None
    fixed = report.get("preregistration") or {}
    predicate = {
        "evaluator": {"id": EVALUATOR},
        "evaluatedAt": report["created"],
        "suite": {"name": f"{data['name']}, test split", "version": data["fingerprint"][:12]},
        "claims": [_claim(criterion) for criterion in gate["criteria"]],
        "measurement": _measurement(report),
        "sampleSize": final["samples"],
        "model": {"name": model_file, "digest": {"sha256": digests[model_file]}},
        "dataset": {"name": data["name"], "digest": {FINGERPRINT: data["fingerprint"]}},
        "assuranceLevel": "self_attested",
        "subjectProfile": "public-model",
        "evidence": [
            {
                "name": "report.json",
                "uri": "report.json",
                "digest": {"sha256": digests["report.json"]},
                "mediaType": "application/json",
            }
        ],
    }
    if "digest" in fixed:
        predicate["preRegistration"] = {
            "alg": "sha256",
            "value": fixed["digest"],
            "at": fixed["at"],
            "changedAfterMeasurement": bool(fixed["earlier"]),
        }
    if "harness" in report:
        named = report["harness"]
        digest = {"sha256": named["sha256"]}
        predicate["harness"] = {
            "name": named["name"],
            "version": named["version"],
            "digest": digest,
        }
    return {
        "_type": TYPE,
        "subject": _subject(report, digests, model_file),
        "predicateType": PREDICATE,
        "predicate": predicate,
    }


def to_bytes(statement: Mapping[str, Any]) -> bytes:
    """The statement as it is packed and signed: the same bytes for the same statement.

    Raises BadInput for what in-toto's library refuses, which it checks, or where that is missing.
    """
    try:
        from google.protobuf.json_format import ParseDict, ParseError
        from in_toto_attestation.v1.statement import Statement
        from in_toto_attestation.v1.statement_pb2 import Statement as Message
    except ImportError as error:
        raise BadInput(f"{error}: pip install 'marpress[serve]', or run `make setup`") from error
    written = {**statement, "type": statement["_type"]}
    del written["_type"]
    try:
        Statement.copy_from_pb(ParseDict(written, Message())).validate()
    except (ParseError, ValueError) as error:
        raise BadInput(f"the report makes no statement of in-toto: {error}") from error
    return (json.dumps(statement, indent=1, sort_keys=True) + "\n").encode()


def _measurement(report: Mapping[str, Any]) -> dict[str, Any]:
    """The metric's value of the model as served and of the original, with 95% intervals."""
    name = report["metric"]["name"]
    rows = {"served": report["final"], "original": report["original"]}
    return {
        "metric": name,
        **{
            title: {
                "value": _decimal(row[name]),
                "interval95": [_decimal(bound) for bound in row["ci95"]],
            }
            for title, row in rows.items()
        },
    }


def _claim(criterion: Mapping[str, Any]) -> dict[str, Any]:
    """A criterion of the gate; numbers as decimal text, as the proposal asks for the threshold."""
    return {
        "metric": criterion["metric"],
        "comparator": criterion["comparator"],
        "threshold": _decimal(criterion["threshold"]),
        "tolerance": _decimal(criterion["tolerance"]),
        "passed": criterion["passed"],
        "value": _decimal(criterion["value"]),
        "sampleSize": criterion["samples"],
    }


def _decimal(value: float) -> str:
    text = f"{value:.6f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _subject(
    report: Mapping[str, Any], digests: Mapping[str, str], model_file: str
) -> list[dict[str, Any]]:
    """The packed files that the report is about, the one that is served first."""
    about = set(report.get("files") or {}) & digests.keys()
    for export in (report.get("exports") or {}).values():
        about |= set(export.get("sha256") or {}) & digests.keys()
    names = [model_file, *sorted(about - {model_file})]
    return [{"name": name, "digest": {"sha256": digests[name]}} for name in names]
