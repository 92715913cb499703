"""A model of two named tensors on a real TorchServe and in the service: every format."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch
from safetensors.torch import load, save

from deploy import samples
from deploy.archive import mar
from deploy.torchserve.inference import content_type
from optimize.report import report
from optimize.run import run
from optimize.tasks import registry
from tests.integration.service import serving
from tests.integration.torchserve import Running

MODELS = Path(__file__).parents[1] / "unit" / "optimize" / "tasks" / "tensor_models.py"
RECIPE = """\
name: pairs
task: tensors
data: {tensors: m.py:pairs}
model: m.py:TwoInputs
metric: multi_label
stages:
  - train: {epochs: 8, batch_size: 32, learning_rate: 0.01}
  - quantize
budget: {max_drop: 0.2}
serving: {workers: 1, batch_size: 2, engines: none}
"""
OCTETS = "application/octet-stream"
VALUES = np.linspace(-1, 1, 18, dtype=np.float32).reshape(3, 6)
KIND = np.array([0, 1, 2])


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    shutil.copy(MODELS, folder / "m.py")
    (folder / "pairs.yaml").write_text(RECIPE)
    recipe = registry.read_recipe(folder / "pairs.yaml")
    return run(recipe, folder / "artifacts" / "pairs", say=lambda line: None)


@pytest.fixture(scope="module")
def wanted(artifact: Path) -> np.ndarray:
    """The saved file's own answer."""
    model = torch.jit.load(artifact / "model.pt")
    found: np.ndarray = model(torch.from_numpy(VALUES), torch.from_numpy(KIND)).numpy()
    return found


@pytest.fixture(scope="module")
def server(served: Running, artifact: Path) -> Iterator[Running]:
    mar.seal(artifact, served.workdir / "model_store")
    served.management.register("pairs.mar")
    yield served
    served.management.unregister("pairs")


def post(server: Running, body: bytes, kind: str, **headers: str) -> requests.Response:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return requests.post(
        f"{server.settings.inference}/predictions/pairs",
        data=body,
        headers={**server.header(), "Content-Type": kind, **named},
        timeout=30,
    )


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def kserve(binary: bool) -> tuple[bytes, dict[str, str]]:
    """A v2 request of both tensors, `values` as binary data or not."""
    entry = {"name": "values", "shape": [3, 6], "datatype": "FP32"}
    raw = VALUES.tobytes() if binary else b""
    more = {"parameters": {"binary_data_size": len(raw)}} if binary else {"data": VALUES.tolist()}
    kind = {"name": "kind", "shape": [3], "datatype": "INT64", "data": KIND.tolist()}
    body = {"inputs": [{**entry, **more}, kind], "parameters": {"binary_data_output": binary}}
    head = json.dumps(body).encode()
    return head + raw, {"Inference_Header_Content_Length": str(len(head))} if binary else {}


def test_every_format_on_torchserve(server: Running, wanted: np.ndarray) -> None:
    columns = {"values": VALUES.tolist(), "kind": KIND.tolist()}
    reply = post(server, json.dumps(columns).encode(), "application/json")
    assert np.allclose(reply.json()["output"], wanted, atol=1e-4)
    reply = post(server, npz(values=VALUES, kind=KIND), OCTETS)
    assert reply.headers["Content-Type"] == "application/x-npz"
    assert np.allclose(np.load(io.BytesIO(reply.content))["output"], wanted, atol=1e-4)
    tensors = {"values": torch.from_numpy(VALUES), "kind": torch.from_numpy(KIND)}
    reply = post(server, save(tensors), OCTETS, Accept="application/x-safetensors")
    assert np.allclose(load(reply.content)["output"].numpy(), wanted, atol=1e-4)
    body, headers = kserve(binary=True)
    reply = post(server, body, OCTETS, **headers)
    length = int(reply.headers["Inference-Header-Content-Length"])
    assert json.loads(reply.content[:length])["outputs"][0]["shape"] == [3, 3]
    found = np.frombuffer(reply.content[length:], np.float32).reshape(3, 3)
    assert np.allclose(found, wanted, atol=1e-4)


def test_bad_tensors_on_torchserve(server: Running) -> None:
    short = json.dumps({"values": [[1, 2]], "kind": [0]}).encode()
    reply = post(server, short, "application/json")
    assert (reply.status_code, reply.json()["type"]) == (422, "bad_shape")
    assert post(server, b"<x/>", "text/xml").status_code == 415
    assert post(server, npz(values=VALUES), OCTETS).status_code == 400


def test_its_samples_are_answered_right(server: Running, artifact: Path) -> None:
    def predict(path: Path) -> object:
        return server.inference.predict("pairs", path.read_bytes(), content_type(path))

    asked = samples.ask(samples.read(artifact / "samples"), predict, report.read(artifact))
    assert [one.right for one in asked] == [True] * 4


def test_kserve_and_tensorflow_in_the_service(
    artifact: Path, wanted: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "model_store").mkdir()
    sealed = mar.seal(artifact, tmp_path / "model_store")
    with serving(tmp_path, sealed.path) as service:
        about = requests.get(f"{service.address}/v2/models/pairs", timeout=30).json()
        assert about["inputs"] == [
            {"name": "values", "datatype": "FP32", "shape": [-1, 6]},
            {"name": "kind", "datatype": "INT64", "shape": [-1]},
        ]
        assert about["outputs"] == [{"name": "output", "datatype": "FP32", "shape": [-1, 3]}]
        for binary in (False, True):
            body, named = kserve(binary)
            headers = {key.replace("_", "-"): value for key, value in named.items()}
            url = f"{service.address}/v2/models/pairs/infer"
            reply = requests.post(url, data=body, headers=headers, timeout=30)
            assert reply.status_code == 200, reply.text
            if binary:
                length = int(reply.headers["Inference-Header-Content-Length"])
                found = np.frombuffer(reply.content[length:], np.float32)
            else:
                found = np.array(reply.json()["outputs"][0]["data"])
            assert np.allclose(found.reshape(3, 3), wanted, atol=1e-4)
        wrong = requests.post(url, json={"inputs": [{"name": "kind"}]}, timeout=30)
        assert wrong.status_code == 400 and "datatype is one of" in wrong.json()["error"]
        rows = [{"values": v.tolist(), "kind": k} for v, k in zip(VALUES, (0, 1, 2), strict=True)]
        url = f"{service.address}/v1/models/pairs:predict"
        found = requests.post(url, json={"instances": rows}, timeout=30).json()["predictions"]
        assert np.allclose(found, wanted, atol=1e-4)
