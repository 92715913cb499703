"""Partial answers through the application: where they come, and where a request for them is 501."""

import json

import pytest
import torch

from tests.integration import countdown
from tests.unit.deploy.service.client import Running


@pytest.fixture(scope="module")
def client(tmp_path_factory, loop):
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("countdown")
    models = Running(loop)
    models.register(countdown.seal(folder / "artifacts", folder / "model_store"))
    yield models.client()
    models.close()
    torch.set_num_threads(threads)


def test_predictions_are_streamed_line_by_line(client):
    reply = client.post("/predictions/countdown", json={"data": 2, "stream": True})
    assert (reply.status_code, reply.content_type) == (200, "application/jsonlines")
    chunks = reply.chunks
    assert chunks[:2] == [b'{"number": 2}\n', b'{"number": 1}\n']
    assert json.loads(chunks[2]) == {"numbers": [2, 1], "explain": False}
    assert len(chunks) == 3


def test_a_failure_on_the_way_is_the_last_line(client):
    reply = client.post("/predictions/countdown", data=b"9", headers={"X-Stream": "true"})
    *partial, failed = [json.loads(line) for line in reply.data.splitlines()]
    assert [line["number"] for line in partial] == [9, 8, 7]
    assert (failed["code"], failed["type"]) == (422, "unlucky")


def test_what_fails_before_the_first_line_has_its_status(client):
    reply = client.post("/predictions/countdown", json={"data": 2, "stream": "maybe"})
    assert (reply.status_code, reply.json["type"]) == (400, "bad_parameter")
    assert client.post("/predictions/nope", json={"data": 2, "stream": True}).status_code == 404


def test_without_the_parameter_nothing_is_streamed(client):
    reply = client.post("/predictions/countdown", json={"data": 2})
    assert reply.content_type == "application/json"
    assert reply.json == {"numbers": [2, 1], "explain": False}


def test_the_handler_knows_an_explanation_from_a_prediction(client):
    assert client.post("/explanations/countdown", json={"data": 1}).json["explain"] is True


def test_the_other_protocols_cannot_stream_and_say_so(client):
    row = client.post("/v1/models/countdown:predict", json={"instances": [[1]], "stream": True})
    number = {"name": "data", "shape": [1, 1], "datatype": "INT64", "data": [1]}
    body = {"inputs": [number], "parameters": {"stream": True}}
    oip = client.post("/v2/models/countdown/infer", json=body)
    for reply in (row, oip):
        assert reply.status_code == 501, reply.text
        assert "leave stream out" in reply.json["error"]
