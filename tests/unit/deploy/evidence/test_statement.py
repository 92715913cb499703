"""The statement: in-toto's library reads it, and it says what the report says and no more."""

import json
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message

from deploy.errors import BadInput
from deploy.evidence import statement
from tests.unit.optimize.report.reports import report

DIGESTS = {"model.pt": "a" * 64, "model.json": "b" * 64, "report.json": "1" * 64, "x.py": "2" * 64}


def built(**changes: Any) -> dict[str, Any]:
    found = statement.build(report(**changes), DIGESTS, "model.pt")
    assert found is not None
    return found


def test_it_is_about_the_models_files() -> None:
    found = built(exports={"onnx": {"sha256": {"exports/onnx/m.onnx": "3" * 64, "x.py": "2" * 64}}})
    assert found["_type"] == "https://in-toto.io/Statement/v1"
    assert found["predicateType"] == "https://in-toto.io/attestation/eval-result/v0.1"
    assert found["subject"] == [
        {"name": "model.pt", "digest": {"sha256": "a" * 64}},
        {"name": "model.json", "digest": {"sha256": "b" * 64}},
        {"name": "x.py", "digest": {"sha256": "2" * 64}},  # an export's file that was packed
    ]


def test_it_has_every_field_that_the_proposal_requires() -> None:
    told = built()["predicate"]
    assert told["evaluator"]["id"].startswith("urn:")
    assert told["evaluatedAt"] == "2026-01-02T03:04:05+00:00"
    assert set(told["suite"]) == {"name", "version"}
    assert told["sampleSize"] == 1234 and type(told["sampleSize"]) is int
    assert told["assuranceLevel"] == "self_attested"
    assert told["subjectProfile"] == "public-model"
    # The model and the data are each identified once, by a digest and by no commitment.
    assert told["model"] == {"name": "model.pt", "digest": {"sha256": "a" * 64}}
    assert told["dataset"] == {"name": "shapes", "digest": {"marpressDataV1": "f1n6e4"}}
    assert "commitments" not in told
    (claim,) = told["claims"]
    shown = {key: claim[key] for key in ("metric", "comparator", "threshold", "passed")}
    assert shown == {
        "metric": "accuracy_drop",
        "comparator": "<=",
        "threshold": "0.01",  # text, so that no reader rounds it
        "passed": True,
    }
    assert told["preRegistration"] == {
        "alg": "sha256",
        "value": "d" * 64,
        "at": "2026-01-02T03:00:00+00:00",
        "changedAfterMeasurement": False,
    }
    harness = {"name": "marpress", "version": "0.1.0", "digest": {"sha256": "c" * 64}}
    assert told["harness"] == harness
    (evidence,) = told["evidence"]
    assert evidence["digest"] == {"sha256": "1" * 64} and evidence["uri"] == "report.json"


def test_it_gives_the_measured_values_with_intervals() -> None:
    told = built()["predicate"]
    assert told["measurement"] == {
        "metric": "accuracy",
        "served": {"value": "0.9257", "interval95": ["0.9157", "0.9357"]},
        "original": {"value": "0.9316", "interval95": ["0.9216", "0.9416"]},
    }
    assert told["claims"][0]["value"] == "0.0059" and told["claims"][0]["sampleSize"] == 1234


def test_a_budget_that_was_changed_is_told() -> None:
    fixed = report()["preregistration"]
    told = built(preregistration={**fixed, "earlier": [fixed]})["predicate"]
    assert told["preRegistration"]["changedAfterMeasurement"] is True


def test_a_missed_criterion_is_told() -> None:
    gate = report()["gate"]
    gate["criteria"][0]["passed"] = False
    assert built(gate=gate)["predicate"]["claims"][0]["passed"] is False


def test_in_totos_library_reads_the_bytes_back() -> None:
    found = built()
    data = statement.to_bytes(found)
    assert data == statement.to_bytes(built()) and json.loads(data) == found
    read = json_format.ParseDict({**found, "type": found["_type"]}, Message(), True)
    Statement.copy_from_pb(read).validate()
    assert json_format.MessageToDict(read)["predicate"] == found["predicate"]


def test_what_in_totos_library_refuses_is_not_packed() -> None:
    with pytest.raises(BadInput, match="no statement of in-toto"):
        statement.to_bytes({**built(), "subject": []})
    with pytest.raises(BadInput, match="no statement of in-toto"):
        statement.to_bytes({**built(), "subject": [{"name": 3}]})


@pytest.mark.parametrize("left_out", ["gate", "data", "final"])
def test_a_report_written_by_hand_makes_none(left_out: str) -> None:
    assert statement.build(report(**{left_out: {}}), DIGESTS, "model.pt") is None
