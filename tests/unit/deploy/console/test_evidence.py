"""What a description says for a model."""

from deploy.archive.adopted import STATUS
from deploy.console.evidence import facts
from tests.integration import quadrant

TOLD = {
    "task": "image_classification",
    "engine": {"file": "model.pt"},
    "labels": ["a", "b", "c", "d", "e", "f"],
    "report": quadrant.report(),
}


def test_a_report_in_short_lines() -> None:
    found, passed = facts(TOLD, False)
    assert passed is True
    assert found == {
        "Task": "image classification",
        "Runs": "model.pt",
        "Labels": "a, b, c, d and 2 more",
        "Budget": "held: lost 0.75 of at most 1.00 points",
        "Quality": "Accuracy 99.25 %, was 100.00 on 4 samples",
        "Size": "10 kB, was 400 kB",
        "Latency": "0.1 ms, was 2 ms (p50, batch 1, 1 thread)",
    }


def test_a_missed_budget_with_its_reason() -> None:
    report = quadrant.report(passed=False)
    report["gate"]["reason"] = "lost 3 points"
    found, passed = facts({**TOLD, "report": report}, False)
    assert (found["Budget"], passed) == ("missed: lost 3 points", False)


def test_a_budget_of_which_nothing_was_lost() -> None:
    report = quadrant.report()
    report["gate"] |= {"drop": -0.01, "max_drop": 0.0}
    assert facts({"report": report}, False)[0]["Budget"] == "held: lost none of at most 0.00 points"


def test_a_report_that_says_less() -> None:
    found, passed = facts({"report": {"recipe": "x", "gate": {"passed": True}}}, False)
    assert (found, passed) == ({"Budget": "held"}, True)
    found, passed = facts({"report": {"metric": 1, "original": [], "final": None}}, False)
    assert (found, passed) == ({}, None)


def test_nothing_was_measured() -> None:
    assert facts({}, False) == ({"Evidence": "no report"}, None)
    # What an adopted archive says of itself was measured by nobody here.
    found, passed = facts(TOLD, True)
    assert (found["Evidence"], passed, "Quality" in found) == (STATUS, None, False)
