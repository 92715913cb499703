"""The bill of materials: valid by the schema of CycloneDX, complete, and the same each time."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.evidence import bom
from tests.unit.optimize.report.reports import report

DIGESTS = {"model.pt": "a" * 64, "model.json": "b" * 64, "report.json": "1" * 64}


def built(**changes: Any) -> dict[str, Any]:
    data = bom.build("shapes", report(**changes), DIGESTS, "model.pt")
    assert data == bom.build("shapes", report(**changes), DIGESTS, "model.pt")
    problems = JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode())
    assert problems is None, problems
    found: dict[str, Any] = json.loads(data)
    return found


def parts(bill: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in bill["components"] if part["type"] == kind}


def test_the_model_and_its_card() -> None:
    model = built()["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and model["name"] == "shapes"
    assert model["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    card = model["modelCard"]
    assert card["modelParameters"] == {
        "task": "image_classification",
        "datasets": [{"ref": "data"}],
    }
    before, after = card["quantitativeAnalysis"]["performanceMetrics"]
    assert after == {
        "type": "accuracy",
        "value": "0.9257",
        "slice": "final, 1234 held-out samples",
        "confidenceInterval": {"lowerBound": "0.9157", "upperBound": "0.9357"},
    }
    assert before["value"] == "0.9316"


def test_data_packages_and_files() -> None:
    bill = built()
    assert parts(bill, "file").keys() == DIGESTS.keys()
    for name, part in parts(bill, "file").items():
        assert part["hashes"] == [{"alg": "SHA-256", "content": DIGESTS[name]}]
    assert parts(bill, "data")["shapes"]["description"] == "a file"
    assert "licenses" not in parts(bill, "data")["shapes"]  # the recipe does not state it
    torch = parts(bill, "library")["torch"]
    assert torch["version"] == "2.13.0" and torch["purl"] == "pkg:pypi/torch@2.13.0"
    assert torch["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert parts(bill, "platform")["python"]["version"] == "3.11.7"


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        ("MIT", [{"license": {"id": "MIT"}}]),
        ("Apache-2.0 AND BSD-3-Clause", [{"expression": "Apache-2.0 AND BSD-3-Clause"}]),
        ("BSD License", [{"license": {"name": "BSD License"}}]),
        ("as their owners say; ask", [{"license": {"name": "as their owners say; ask"}}]),
    ],
)
def test_licences(stated: str, shown: list[dict[str, Any]]) -> None:
    bill = built(package_licences={"torch": stated})
    assert parts(bill, "library")["torch"]["licenses"] == shown


def test_its_name_and_date_come_from_the_content() -> None:
    bill = built()
    assert bill["metadata"]["timestamp"] == "2026-01-02T03:04:05+00:00"
    assert bill["serialNumber"].startswith("urn:uuid:")
    other = json.loads(bom.build("shapes", report(), {**DIGESTS, "model.pt": "9" * 64}, "model.pt"))
    assert other["serialNumber"] != bill["serialNumber"]


def test_a_report_that_says_next_to_nothing_has_one_too() -> None:
    data = bom.build("shapes", {"gate": {"passed": True}}, DIGESTS, "model.pt")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    assert json.loads(data)["metadata"]["timestamp"].startswith("1980-01-01")
