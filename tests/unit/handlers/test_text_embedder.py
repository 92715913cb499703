"""The text embedder behind TorchServe's own service code, with a real tokenizer and int8 file."""

import base64
import json
import math
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from handlers.text_embedder import Query, TextEmbedder
from tests.unit.handlers import embedding_artifact
from tests.unit.handlers.archive import Answer, Sent, Worker, body
from tests.unit.handlers.embedding_artifact import WIDTH

TEXT = "a small domesticated carnivorous mammal with soft fur"


@pytest.fixture(scope="module")
def _started(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    folder = embedding_artifact.make(tmp_path_factory.mktemp("vectors"), max_windows=4)
    return Worker(TextEmbedder(), folder, batch_size=4)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch, _started: Worker) -> Worker:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    torch.backends.quantized.engine = "fbgemm"
    return _started


def plain(text: str | bytes, **headers: str) -> Sent:
    data = text.encode() if isinstance(text, str) else text
    return body(data, "text/plain; charset=utf-8", **headers)


def sent(value: Any) -> Sent:
    return body(json.dumps(value).encode(), "application/json")


def vector(answer: Answer | dict[str, Any]) -> np.ndarray[Any, Any]:
    found = answer.json() if isinstance(answer, Answer) else answer
    return np.array(found["embedding"])


def test_every_way_of_sending_a_text_gives_its_vector(worker: Worker) -> None:
    asked = (
        plain(TEXT),
        sent({"text": TEXT}),
        sent({"input": TEXT}),
        sent({"instances": [TEXT]}),
        sent([TEXT]),
        sent({"input": [TEXT]}),
    )
    answers = [worker.predict(request)[0] for request in asked]
    assert [answer.status for answer in answers] == [200] * len(asked)
    first = answers[0].json()
    assert len(first["embedding"]) == WIDTH and (first["windows"], first["tokens"]) == (1, 12)
    assert np.linalg.norm(vector(first)) == pytest.approx(1, abs=1e-6)
    for answer in answers[1:]:
        found = answer.json()
        assert (found[0] if isinstance(found, list) else found) == first


def test_lists_are_answered_in_order(worker: Worker) -> None:
    texts = ["dull and long", "a delight from start to finish", TEXT]
    (many,) = worker.predict(sent({"input": texts}))
    for found, text in zip(many.json(), texts, strict=True):
        alone = vector(worker.predict(plain(text))[0])
        assert vector(found) == pytest.approx(alone, abs=1e-5)


def test_a_long_text_is_the_mean_of_its_windows(worker: Worker) -> None:
    half = " ".join(["the quick brown fox jumps"] * 5)  # 25 of the 30 tokens of a window
    other = " ".join(["over one lazy old dog"] * 5)
    long = worker.predict(plain(f"{half} {other}"))[0].json()
    parts = [vector(worker.predict(plain(part))[0]) for part in (half, other)]
    mean = (parts[0] + parts[1]) / 2
    assert long["windows"] == 2
    assert vector(long) == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


def test_int8_and_base64_hold_the_same_numbers(worker: Worker) -> None:
    exact = vector(worker.predict(plain(TEXT))[0])
    coarse = worker.predict(plain(TEXT, X_Precision="int8"))[0].json()
    numbers = np.array(coarse["embedding"])
    assert numbers.dtype == np.int64 and np.abs(numbers).max() == 127
    assert numbers * coarse["scale"] == pytest.approx(exact, abs=coarse["scale"] / 2 + 1e-7)
    for precision, kind in (("float32", "<f4"), ("int8", "i1")):
        asked = {"text": TEXT, "precision": precision, "encoding_format": "base64"}
        found = worker.predict(sent(asked))[0].json()
        read = np.frombuffer(base64.b64decode(found["embedding"]), kind)
        expected = exact if precision == "float32" else numbers
        assert read == pytest.approx(expected, abs=1e-7)


def test_documents_are_ranked_by_their_cosine(worker: Worker) -> None:
    documents = ["a stormy night at sea", TEXT + " .", "seven"]
    answer = worker.predict(sent({"text": TEXT, "documents": documents}))[0].json()
    query = vector(answer)
    cosines = [float(query @ vector(worker.predict(plain(text))[0])) for text in documents]
    order = sorted(range(3), key=lambda i: -cosines[i])
    assert [entry["index"] for entry in answer["ranking"]] == order
    assert answer["label"] == documents[order[0]] == answer["ranking"][0]["document"]
    for entry in answer["ranking"]:
        assert entry["similarity"] == pytest.approx(cosines[entry["index"]], abs=1e-5)
        assert entry["document"] == documents[entry["index"]]


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (plain(b"caf\xe9 noir"), 400, "not_utf8"),
        (plain(b" \n"), 422, "empty_text"),
        (plain("word " * 200), 413, "text_too_long"),
        (plain("word " * 30_000), 413, "too_many_bytes"),
        (sent({"text": 7}), 400, "wrong_type"),
        (sent({"text": "x \ud800"}), 400, "not_utf8"),
        (sent({"words": "good"}), 400, "unknown_name"),
        (sent({"text": "good", "precision": "int4"}), 400, "bad_parameter"),
        (sent({"text": "good", "encoding_format": "hex"}), 400, "bad_parameter"),
        (sent({"text": "good", "documents": "bad"}), 400, "bad_parameter"),
        (sent({"text": "good", "documents": ["bad", ""]}), 422, "empty_text"),
        (sent({"text": ["a", "b"], "documents": ["bad"]}), 400, "bad_parameter"),
        (sent({"text": "good", "documents": ["bad"] * 65}), 413, "too_many_inputs"),
    ],
)
def test_bad_requests_are_refused_beside_good_ones(
    worker: Worker, request_: Sent, status: int, kind: str
) -> None:
    good, bad = worker.predict(plain("fine"), request_)
    assert good.status == 200
    assert (bad.status, bad.json()["type"]) == (status, kind)


def test_what_it_says_of_itself_holds(worker: Worker) -> None:
    asks, answers = worker.handler.schemas()
    assert asks["x-text"]["dimensions"] == WIDTH and math.isfinite(asks["x-text"]["max_bytes"])
    for asked in (
        {"text": TEXT},
        {"text": [TEXT, "two"], "precision": "int8"},
        {"text": TEXT, "documents": ["one", "two"], "encoding_format": "base64"},
    ):
        jsonschema.validate(asked, asks)
        jsonschema.validate(worker.predict(sent(asked))[0].json(), answers)


def test_documents_are_charged_too(worker: Worker) -> None:
    few, many = worker.handler.trials()
    limit = embedding_artifact.MAX_LENGTH
    assert (worker.handler.cost(few), worker.handler.cost(many)) == (limit, 8 * limit)
    ranking = Query(few.text, ["one", "two"], [few.text, many.text])
    assert worker.handler.cost(ranking) == 10 * limit
