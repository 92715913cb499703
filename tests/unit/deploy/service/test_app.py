"""The application's routes over a real archive, without a socket."""

import base64
import json

import numpy as np
import pytest
import torch

from deploy.archive import mar
from deploy.service import control
from tests.integration import quadrant
from tests.unit.corpus import malformed
from tests.unit.deploy.service.client import Client, Running

PICTURE = base64.b64encode(quadrant.picture(2)).decode()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    artifact = quadrant.make(folder / "artifacts")
    mar.seal(artifact, folder / "model_store", version="1.0")
    mar.seal(artifact, folder / "other", version="2.0").path.rename(
        folder / "model_store" / "second.mar"
    )
    return folder / "model_store"


@pytest.fixture(scope="module")
def models(store, loop):
    threads = torch.get_num_threads()
    made = Running(loop)
    made.register(store / "quadrant.mar")
    yield made
    made.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def client(models):
    return models.client()


@pytest.fixture
def manager(store, loop):
    """A management client with models of its own, and the inference client beside it."""
    threads = torch.get_num_threads()
    made = Running(loop)
    app = control.build(made.models, store, "secret")
    yield Client(loop, app, {"Authorization": "Bearer secret"}), made.client()
    made.close()
    torch.set_num_threads(threads)


# TensorFlow Serving


def test_tensorflow_rows(client):
    reply = client.post("/v1/models/quadrant:predict", json={"instances": [{"b64": PICTURE}] * 2})
    assert reply.status_code == 200
    for one in reply.json["predictions"]:
        assert one["index"][0] == 2
        assert one["label"][0] == "bottom left"
        assert len(one["probability"]) == 4


@pytest.mark.parametrize(
    "inputs",
    [
        {"data": [{"b64": PICTURE}] * 2},
        [{"b64": PICTURE}] * 2,
        {"image": [PICTURE, PICTURE]},
    ],
)
def test_tensorflow_columns(client, inputs):
    body = {"signature_name": "serving_default", "inputs": inputs}
    reply = client.post("/v1/models/quadrant/versions/1.0:predict", json=body)
    assert reply.status_code == 200, reply.text
    outputs = reply.json["outputs"]
    assert [row[0] for row in outputs["index"]] == [2, 2]
    assert np.shape(outputs["probability"]) == (2, 4)


def test_tensorflow_takes_numbers_and_named_inputs(client):
    bright = [[10] * 28 for _ in range(14)] + [[255] * 14 + [10] * 14 for _ in range(14)]
    for instance in (bright, {"data": bright}, {"data": bright, "top_k": 1}):
        reply = client.post("/v1/models/quadrant:predict", json={"instances": [instance]})
        assert reply.json["predictions"][0]["index"][0] == 2, reply.text


def test_tensorflow_status_and_metadata(client):
    (state,) = client.get("/v1/models/quadrant").json["model_version_status"]
    assert state == {
        "version": "1.0",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    assert client.get("/v1/models/quadrant/versions/1.0").status_code == 200
    about = client.get("/v1/models/quadrant/metadata").json
    assert about["model_spec"] == {"name": "quadrant", "signature_name": "", "version": "1.0"}
    signature = about["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["data"]["dtype"] == "DT_STRING"
    assert {name: out["dtype"] for name, out in signature["outputs"].items()} == {
        "label": "DT_STRING",
        "index": "DT_INT64",
        "probability": "DT_FLOAT",
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("nope:predict", {"instances": [1]}, 404, "Latest(nope)"),
        ("quadrant/versions/9:predict", {"instances": [1]}, 404, "Specific(quadrant, 9)"),
        ("quadrant:predict", b"{", 400, "JSON Parse error"),
        ("quadrant:predict", b"[" * 100_000, 400, "JSON Parse error"),
        ("quadrant:predict", [], 400, "must be an object"),
        ("quadrant:predict", {}, 400, "instances"),
        ("quadrant:predict", {"instances": [1], "inputs": [1]}, 400, "instances"),
        ("quadrant:predict", {"instances": []}, 400, "instances"),
        ("quadrant:predict", {"instances": ["!"]}, 400, "base64"),
        ("quadrant:predict", {"instances": [PICTURE] * 65}, 413, "64"),
        ("quadrant:predict", {"inputs": {"data": [1], "image": [1, 2]}}, 400, "equally long"),
        ("quadrant:predict", {"inputs": {}}, 400, "equally long"),
        ("quadrant:predict", {"instances": [1], "signature_name": "x"}, 400, "not found"),
        ("quadrant:predict", {"instances": [PICTURE], "colour": 1}, 400, "colour"),
        ("quadrant:classify", {"examples": []}, 405, "Malformed request: POST"),
    ],
)
def test_tensorflow_errors(client, path, body, status, words):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = client.post(f"/v1/models/{path}", data=data)
    assert reply.status_code == status, reply.text
    assert list(reply.json) == ["error"]
    assert words in reply.json["error"]


# KServe


def infer(client, version="", **body):
    return client.post(f"/v2/models/quadrant{version}/infer", json=body)


def tensor(**changes):
    return {"name": "data", "shape": [1], "datatype": "BYTES", "data": [PICTURE]} | changes


def test_kserve_in_json(client):
    reply = infer(client, "/versions/1.0", id="7", inputs=[tensor()], parameters={"top_k": 2})
    assert reply.status_code == 200, reply.text
    assert (reply.json["id"], reply.json["model_name"]) == ("7", "quadrant")
    outputs = {one["name"]: one for one in reply.json["outputs"]}
    assert outputs["index"]["shape"] == [1, 2]
    assert outputs["index"]["data"][0] == 2
    only = infer(client, inputs=[tensor()], outputs=[{"name": "index"}])
    assert [one["name"] for one in only.json["outputs"]] == ["index"]


def test_kserve_health_and_metadata(client):
    assert client.get("/v2").json["extensions"] == ["binary_tensor_data"]
    for path in ("health/live", "health/ready", "models/quadrant/ready"):
        assert client.get(f"/v2/{path}").status_code == 200
    about = client.get("/v2/models/quadrant").json
    assert about["versions"] == ["1.0"]
    assert about["inputs"] == [{"name": "data", "datatype": "BYTES", "shape": [-1]}]
    assert [out["datatype"] for out in about["outputs"]] == ["BYTES", "INT64", "FP32"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "JSON object"),
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [7]}, "object with a name"),
        ({"inputs": [tensor(name="x")]}, "unexpected inference inputs 'x'"),
        ({"inputs": [tensor(), tensor()]}, "unexpected inference inputs"),
        ({"inputs": [tensor(shape=[2])]}, "takes 2 elements"),
        ({"inputs": [tensor(data=["!"])]}, "base64"),
        ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, "5 are announced"),
        ({"inputs": [tensor(parameters={"binary_data_size": "5"})]}, "whole number"),
        ({"inputs": [tensor()], "parameters": 5}, "parameters"),
        ({"inputs": [tensor()], "parameters": {"colour": 5}}, "colour"),
        ({"inputs": [tensor()], "parameters": {"instances": ["x"]}}, "'instances' is neither"),
        ({"inputs": [tensor()], "parameters": {"data": "x"}}, "'data' is neither"),
        ({"inputs": [tensor()], "outputs": [{"name": "x"}]}, "unexpected inference output 'x'"),
        ({"inputs": [tensor()], "outputs": 5}, "outputs"),
        ({"inputs": [tensor()], "outputs": [{"name": ["x"]}]}, "unexpected inference output"),
        ({"inputs": [tensor(data=[[[[[["x"]]]]]])]}, "nested too deeply"),
    ],
)
def test_kserve_errors(client, body, words):
    reply = client.post("/v2/models/quadrant/infer", json=body)
    assert reply.status_code == 400, reply.text
    assert list(reply.json) == ["error"]
    assert words in reply.json["error"]


def test_kserve_places_that_are_not_there(client):
    for path in ("models/nope", "models/nope/ready", "models/quadrant/versions/9", "nope"):
        reply = client.get(f"/v2/{path}")
        assert reply.status_code == 404
        assert list(reply.json) == ["error"]
    assert client.post("/v2/models/nope/infer", json={}).status_code == 404
    assert client.get("/v2/models/quadrant/infer").status_code == 405


def test_bad_pictures_get_the_same_status_on_every_api(client):
    """The corpus' bodies as base64: what /predictions says, the other two say."""
    kinds = ("cut at 40%", "PNG of 2", "magic and 20", "real BMP", "PNG 0x0")
    chosen = [case for case in malformed() if any(kind in case.name for kind in kinds)]
    assert {case.status for case in chosen} == {400, 413, 415, 422}
    for case in chosen:
        text = base64.b64encode(case.body).decode()
        instances = {"instances": [{"b64": text}]}
        expected = client.post("/predictions/quadrant", json=instances)
        row = client.post("/v1/models/quadrant:predict", json=instances)
        oip = infer(client, inputs=[tensor(data=[text])])
        assert row.status_code == oip.status_code == expected.status_code >= 400, case.name
        assert row.json["error"] == expected.json["message"]


# SageMaker


def test_sagemaker_asks_the_only_model(client):
    picture = quadrant.picture(2)
    expected = client.post("/predictions/quadrant", data=picture).json
    for path in ("/invocations", "/models/quadrant/invoke", "/invocations?top_k=4"):
        reply = client.post(path, data=picture, headers={"Content-Type": "image/png"})
        assert (reply.status_code, reply.json) == (200, expected)
    assert client.get("/ping").status_code == 200


def test_sagemaker_must_name_one_of_several_models(manager):
    _, client = manager
    reply = client.post("/invocations", data=quadrant.picture(2))
    assert (reply.status_code, reply.json["message"]) == (400, "Parameter model_name is required.")


# OpenAI


def test_openai_models_and_refusals(client):
    (model,) = client.get("/v1/models").json["data"]
    assert (model["id"], model["object"]) == ("quadrant", "model")
    mark = "multipart/form-data; boundary=x"
    part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    form = part.format("model", "", "quadrant") + part.format("file", '; filename="a"', "RIFF")
    for body, kind, status, words in (
        ("", "audio/wav", 400, "multipart/form-data"),
        (part.format("colour", "", "red"), mark, 400, "'colour'"),
        (part.format("model", "", "quadrant"), mark, 400, "a file"),
        (part.format("file", "", "x"), mark, 400, "a model: one of quadrant"),
        (form, mark, 400, "not an image"),
    ):
        reply = client.post(
            "/v1/audio/transcriptions", data=body + "--x--\r\n", headers={"Content-Type": kind}
        )
        assert (reply.status_code, list(reply.json)) == (status, ["error"]), reply.text
        assert words in reply.json["error"]["message"]
    encoded = base64.b64decode(PICTURE).decode("latin-1")
    good = part.format("model", "", "quadrant") + part.format("file", '; filename="a"', encoded)
    reply = client.post(
        "/v1/audio/transcriptions",
        data=(good + "--x--\r\n").encode("latin-1"),
        headers={"Content-Type": mark},
    )
    assert (reply.status_code, reply.json["error"]["type"]) == (422, "invalid_request_error")
    assert "does not transcribe" in reply.json["error"]["message"]


# Management


def test_management_needs_its_key(manager):
    manage, _ = manager
    for key in ("", "Bearer wrong", "Bearer secre\u00e9"):
        headers = {"Authorization": key}
        for method, path in (("POST", "/models?url=quadrant.mar"), ("GET", "/models")):
            reply = manage.open(path, method=method, headers=headers)
            assert (reply.status_code, reply.json["type"]) == (400, "InvalidKeyException")


def test_management_loads_and_unloads(manager):
    manage, client = manager
    reply = manage.post("/models?url=quadrant.mar&initial_workers=2")
    assert "registered with 2 initial workers" in reply.json["status"]
    assert manage.post("/models?url=second.mar").status_code == 200
    assert [e["modelVersion"] for e in manage.get("/models/quadrant/all").json] == ["1.0", "2.0"]
    assert manage.put("/models/quadrant/2.0/set-default").status_code == 200
    assert client.get("/models/quadrant").json[0]["modelVersion"] == "2.0"
    assert manage.put("/models/quadrant/2.0?min_worker=3").status_code == 200
    assert len(client.get("/models/quadrant").json[0]["workers"]) == 3
    assert manage.delete("/models/quadrant/1.0").status_code == 200
    assert manage.delete("/models/quadrant").json == {"status": 'Model "quadrant" unregistered'}
    assert client.post("/predictions/quadrant").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "type"),
    [
        ("POST", "/models", 400, "BadRequestException"),
        ("POST", "/models?url=nope.mar", 404, "ModelNotFoundException"),
        ("POST", "/models?url=../quadrant.mar", 404, "ModelNotFoundException"),
        ("POST", f"/models?url={'a' * 300}", 404, "ModelNotFoundException"),
        (
            "POST",
            f"/models?url=quadrant.mar&initial_workers={'9' * 5000}",
            400,
            "BadRequestException",
        ),
        ("POST", "/models?url=/etc/passwd", 404, "ModelNotFoundException"),
        ("POST", "/models?url=http://x/y.mar", 404, "ModelNotFoundException"),
        ("POST", "/models?url=broken.mar", 400, "InvalidModelException"),
        ("POST", "/models?url=quadrant.mar&initial_workers=x", 400, "BadRequestException"),
        ("POST", "/models?url=quadrant.mar&initial_workers=999", 400, "BadRequestException"),
        ("DELETE", "/models/nope", 404, "ModelNotFoundException"),
        ("DELETE", "/models/a/b/c", 404, "ResourceNotFoundException"),
        ("PUT", "/models/nope?min_worker=1", 404, "ModelNotFoundException"),
        ("PUT", "/models/nope/1/set-default", 404, "ModelNotFoundException"),
        ("PUT", "/models", 405, "MethodNotAllowedException"),
        ("GET", "/models/nope", 404, "ModelNotFoundException"),
        ("GET", "/predictions/quadrant", 404, "ResourceNotFoundException"),
    ],
)
def test_management_errors(manager, store, method, path, status, type):
    (store / "broken.mar").write_bytes(b"PK")
    manage, client = manager
    reply = manage.open(path, method=method)
    assert (reply.status_code, reply.json["type"]) == (status, type), reply.text
    assert client.get("/models").json["models"] == []


def test_the_inference_address_changes_nothing(client):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.open("/models/quadrant", method=method).status_code == 405
        assert client.open("/models?url=second.mar", method=method).status_code == 405
