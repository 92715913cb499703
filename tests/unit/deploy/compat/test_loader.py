"""TorchServe's kinds of handlers in a worker: with its package, and with none of its packages."""

import importlib.util
import json
import math
from typing import Any

import pytest

from tests.unit.deploy.compat import examples, worker

Results = dict[str, dict[str, Any]]
NONE = ("ts", "torchvision", "captum")
REQUESTS: dict[str, list[dict[str, Any]]] = {
    "mnist": [{"body": examples.digit(6)}, {"body": examples.digit(2)}],
    "metrics": [{"body": examples.digit(4)}, {"body": examples.digit(4)}],
    "classifier": [{"body": examples.picture()}],
    "segmenter": [{"body": examples.picture()}],
    "detector": [{"body": examples.picture(size=(9, 8))}] * 2,
    "micro": [{"body": examples.picture(level=level)} for level in (255, 128, 64, 255, 128)],
    "stream": [{"body": "x"}, {"body": "y"}],
    "function": [{"body": "[1, 2, 4]", "type": "application/json"}],
    "package": [{"body": "  four ", "type": "text/plain; charset=utf-8"}],
    "explain": [{"body": examples.digit(4), "headers": {"explain": "True"}}],
}


@pytest.fixture(scope="module", params=["installed", "none"])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Every example's answers in a worker that has TorchServe's package, and in one without."""
    folder = tmp_path_factory.mktemp("examples")
    jobs = [
        {"folder": examples.unpacked(folder, name), "requests": requests}
        for name, requests in REQUESTS.items()
    ]
    blocked = NONE if request.param == "none" else ()
    return dict(zip(REQUESTS, worker.run(jobs, *blocked), strict=True))


def bodies(result: dict[str, Any]) -> list[Any]:
    assert "error" not in result, result["error"]
    return [json.loads(body.encode("latin-1")) for body in result["bodies"]]


def test_a_subclass_of_image_classifier_with_a_model_file(results: Results) -> None:
    assert bodies(results["mnist"]) == [3, 1]
    assert results["mnist"]["types"] == ["application/json"] * 2


def test_metrics_of_a_handler(results: Results) -> None:
    assert bodies(results["metrics"]) == [2, 2]
    found = {
        name: (kind, value, labels) for kind, name, value, labels in results["metrics"]["metrics"]
    }
    model = {"ModelName": "metrics", "Level": "Model"}
    assert found["Asked"] == ("counter", 2.0, {})
    assert found["Started"] == ("counter", 1.0, model)
    assert found["BatchSize"] == ("gauge", 2.0, {"ModelName": "metrics"})
    assert found["Bytes"] == ("gauge", float(len(examples.digit(4))), model)
    assert found["Step"] == ("gauge", 1.5, {"Method": "pre", **model})
    assert found["Share"] == ("histogram", 50.0, model)
    assert found["Odd"] == ("counter", 1.0, {"Level": "Error", "ModelName": "metrics"})
    assert found["Calls"] == ("counter", 1.0, model)
    assert found["HandlerTime"][0] == "gauge"


def test_the_default_image_classifier(results: Results) -> None:
    """Of the picture's middle one half is black and one 200 of 255, less ImageNet's mean."""
    (answer,) = bodies(results["classifier"])
    mean = sum(
        (200 / 255 / 2 - m) / s
        for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    )
    logits = [mean / 3 * index for index in range(6)]
    total = sum(math.exp(value) for value in logits)
    expected = {f"class {k}": math.exp(v) / total for k, v in enumerate(logits)}
    assert len(answer) == 5
    for label, probability in answer.items():
        assert probability == pytest.approx(expected[label], abs=0.01)


def test_the_default_segmenter(results: Results) -> None:
    (answer,) = bodies(results["segmenter"])
    classes = [[int(pixel[0]) for pixel in row] for row in answer]
    assert classes == [[0, 1], [0, 1]]
    assert all(0.5 < pixel[1] <= 1 for row in answer for pixel in row)


def test_the_default_detector(results: Results) -> None:
    assert bodies(results["detector"]) == [[{"cat": [1.0, 2.0, 3.0, 4.0], "score": 0.75}]] * 2


def test_micro_batches_keep_the_order(results: Results) -> None:
    answers = bodies(results["micro"])
    assert answers[0] == answers[3]
    assert answers[1] == answers[4]
    assert answers[0] != answers[1] != answers[2]


def test_partial_answers(results: Results) -> None:
    assert results["stream"]["partial"] == [["one ", "two "]] * 2
    assert results["stream"]["bodies"] == ["three", "three"]
    assert results["stream"]["types"] == ["text/plain; charset=utf-8"] * 2


def test_a_function_and_decoded_json(results: Results) -> None:
    assert bodies(results["function"]) == [[7.0, 14.0]]


def test_a_package_beside_the_handler_and_decoded_text(results: Results) -> None:
    assert bodies(results["package"]) == [{"sum": 12.0}]


def test_explanations_need_captum(results: Results) -> None:
    """captum answers where it is installed: row 4's gradients are the white row, normalised."""
    result = results["explain"]
    (answer,) = bodies(result)
    if importlib.util.find_spec("captum") is not None and result["status"] == [200]:
        assert answer == pytest.approx(28 * (1 - 0.1307) / 0.3081, abs=0.01)
    else:
        assert result["status"] == [501]
        assert "pip install captum" in answer["message"]
