"""The microservice as a process: its own command, real clients, its end, and how it holds out."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from deploy.archive import mar
from tests.integration import countdown, quadrant
from tests.integration.service import Service, serving
from tests.integration.torchserve import ROOT


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with quadrant and, as slow.mar, the same under another name."""
    workdir = tmp_path_factory.mktemp("work")
    mar.seal(quadrant.make(workdir / "artifacts"), workdir / "model_store", version="1.0")
    slow = quadrant.make(workdir / "artifacts", name="slow", max_batch_delay_ms=1500)
    mar.seal(slow, workdir / "model_store")
    return workdir / "model_store"


@pytest.fixture(scope="module")
def service(store: Path) -> Iterator[Service]:
    with serving(store.parent, store / "quadrant.mar", store / "slow.mar") as running:
        yield running


@pytest.fixture
def client(service: Service) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(service.address.removeprefix("http://"))
    yield made
    made.close()


def probabilities(result: triton.InferResult) -> np.ndarray:
    """[N, 4] in the order of the labels."""
    index, probability = result.as_numpy("index"), result.as_numpy("probability")
    ordered = np.zeros_like(probability)
    np.put_along_axis(ordered, index, probability, axis=1)
    return ordered


def test_tritonclient_asks_for_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("quadrant") and client.is_model_ready("quadrant", "1.0")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "marpress"
    assert client.get_model_metadata("quadrant")["versions"] == ["1.0"]


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("kind", ["FP32", "UINT8"])
def test_tritonclient_sends_pixels(
    client: triton.InferenceServerClient, binary: bool, kind: str
) -> None:
    pixels = np.full((5, 28, 28), 10, np.uint8 if kind == "UINT8" else np.float32)
    for row in range(5):
        top, left = 14 * (row % 4 // 2), 14 * (row % 2)
        pixels[row, top : top + 14, left : left + 14] = 255
    tensor = triton.InferInput("data", list(pixels.shape), kind)
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    names = ("label", "index", "probability")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("quadrant", [tensor], outputs=wanted, request_id="a")
    assert result.as_numpy("index")[:, 0].tolist() == [0, 1, 2, 3, 0]
    first = result.as_numpy("label")[0, 0]
    assert (first.decode() if isinstance(first, bytes) else first) == quadrant.LABELS[0]
    assert np.allclose(probabilities(result).sum(axis=1), 1, atol=1e-5)
    assert result.get_response()["id"] == "a"


def test_tritonclient_sends_encoded_pictures(
    service: Service, client: triton.InferenceServerClient
) -> None:
    pictures = [quadrant.picture(label, "JPEG", side=60) for label in (3, 1)]
    tensor = triton.InferInput("data", [2], "BYTES")
    tensor.set_data_from_numpy(np.array(pictures, dtype=object))
    result = client.infer("quadrant", [tensor])
    direct = [ask(service, picture) for picture in pictures]
    assert result.as_numpy("index")[:, 0].tolist() == [3, 1]
    for row, answer in zip(probabilities(result), direct, strict=True):
        expected = {one["index"]: one["probability"] for one in answer["predictions"]}
        assert row.tolist() == pytest.approx([expected[i] for i in range(4)], abs=1e-6)
    top = client.infer("quadrant", [tensor], parameters={"top_k": 1})
    assert top.as_numpy("label").shape == (2, 1)


def test_tritonclient_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    tensor = triton.InferInput("data", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"no picture"], dtype=object))
    with pytest.raises(InferenceServerException, match="not an image"):
        client.infer("quadrant", [tensor])
    with pytest.raises(InferenceServerException, match="'nope' is not found"):
        client.infer("nope", [tensor])


def test_our_own_verbs_manage_it(service: Service, store: Path) -> None:
    second = mar.seal(quadrant.make(store.parent / "second"), store.parent / "other", version="2.0")
    shutil.copy(second.path, store / "second.mar")
    assert deploy(service, "list") == {"quadrant": "quadrant.mar", "slow": "slow.mar"}
    assert "registered with 1 initial workers" in deploy(service, "register", "second.mar")
    deploy(service, "default", "quadrant", "2.0")
    assert deploy(service, "describe", "quadrant")[0]["modelVersion"] == "2.0"
    assert ask(service, quadrant.picture(2))["predictions"][0]["index"] == 2
    deploy(service, "default", "quadrant", "1.0")
    deploy(service, "scale", "quadrant", "2")
    deploy(service, "unregister", "quadrant", "--version", "2.0")
    assert [e["modelVersion"] for e in deploy(service, "describe", "quadrant")] == ["1.0"]
    reply = requests.post(f"{service.management}/models?url=second.mar", timeout=10)
    assert reply.json()["type"] == "InvalidKeyException"


def test_requests_at_the_same_time_are_batched(service: Service) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: ask(service, quadrant.picture(n % 4)), range(64)))
    assert [answer["predictions"][0]["index"] for answer in answers] == [n % 4 for n in range(64)]
    text = requests.get(service.address + "/metrics", timeout=10).text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("ModelVersion") == "1.0" and "le" not in sample.labels
    }
    assert values["marpress_batch_size_sum"] > 1.2 * values["marpress_batch_size_count"]


def test_partial_answers_come_as_they_are_made(service: Service, store: Path) -> None:
    """Over the socket, each line before the next one is there; several streams at a time."""
    countdown.seal(store.parent / "countdown", store)
    deploy(service, "register", "countdown.mar", "--workers", "3")
    url = f"{service.address}/predictions/countdown"

    def lines(number: int) -> list[tuple[float, dict]]:
        asked = {"data": number, "stream": True}
        with requests.post(url, json=asked, stream=True, timeout=30) as reply:
            assert (reply.status_code, reply.headers["Transfer-Encoding"]) == (200, "chunked")
            return [(time.monotonic(), json.loads(x)) for x in reply.iter_lines(chunk_size=1)]

    with ThreadPoolExecutor(3) as pool:
        streams = list(pool.map(lines, (3, 4, 5)))
    for number, stream in zip((3, 4, 5), streams, strict=True):
        times, values = zip(*stream, strict=True)
        numbers = list(range(number, 0, -1))
        assert list(values[:-1]) == [{"number": n} for n in numbers]
        assert values[-1]["numbers"] == numbers
        assert times[-1] - times[0] > 0.2 * number, "the lines came together at the end"
    # A client that hangs up in the middle costs the worker nothing.
    with requests.post(url, json={"data": 5, "stream": True}, stream=True, timeout=30) as reply:
        next(reply.iter_lines(chunk_size=1))
    assert requests.post(url, json={"data": 2}, timeout=30).json()["numbers"] == [2, 1]
    deploy(service, "unregister", "countdown")


def test_a_client_that_breaks_http_is_told_so_in_json(service: Service) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    long = b"a" * 12_500
    for request in (
        b"GARBAGE\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nX: " + long + b"\r\n\r\n",
        b"GET /" + long + b" HTTP/1.1\r\nX: x\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            wire.sendall(request)
            head, _, body = receive(wire).partition(b"\r\n\r\n")
        assert head.split()[1] == b"400"
        assert json.loads(body)["message"] == "Invalid HTTP message."


def test_what_was_asked_before_sigterm_is_answered_and_the_end_is_clean(store: Path) -> None:
    """Twelve requests wait for their batch to fill when the signal comes."""
    workdir = store.parent / "sigterm"
    workdir.mkdir()
    picture = quadrant.picture(1)
    temporary = workdir / "temporary"
    temporary.mkdir()
    with (
        serving(workdir, store / "slow.mar", TMPDIR=str(temporary)) as running,
        ThreadPoolExecutor(16) as pool,
    ):
        assert (workdir / "key_file.json").is_file()
        assert list(temporary.glob("marpress-service-*"))
        url = running.address + "/predictions/slow"
        asked = [pool.submit(requests.post, url, data=picture, timeout=30) for _ in range(12)]
        wait_until_queued(running, 12)
        assert running.stop() == 0, running.log.read_text()
        replies = [one.result() for one in asked]
        assert [reply.status_code for reply in replies] == [200] * 12, {r.text for r in replies}
        with pytest.raises(requests.ConnectionError):
            requests.get(running.address + "/ping", timeout=5)
        assert "stopped\n" in running.log.read_text()
    assert not (workdir / "key_file.json").exists()
    assert not list(temporary.iterdir())


def ask(service: Service, picture: bytes) -> dict:
    reply = requests.post(f"{service.address}/predictions/quadrant", data=picture, timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def wait_until_queued(service: Service, count: int) -> None:
    for _ in range(500):
        text = requests.get(service.address + "/metrics", timeout=5).text
        asked = [x for x in text.splitlines() if x.startswith("ts_inference_requests_total")]
        if asked and float(asked[0].split()[-1]) >= count:
            return
        time.sleep(0.01)
    pytest.fail("the requests did not arrive")


def receive(wire: socket.socket) -> bytes:
    found = b""
    while part := wire.recv(65536):
        found += part
    return found


def deploy(service: Service, *arguments: str):
    """Run one of our verbs against the service, as against a TorchServe."""
    config = service.workdir / "config.properties"
    config.write_text(
        f"inference_address={service.address}\nmanagement_address={service.management}\n"
    )
    command = [sys.executable, "-m", "deploy", *arguments]
    command += ["--workdir", str(service.workdir), "--config", str(config)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    try:
        return json.loads(done.stdout)
    except ValueError:
        return done.stdout
