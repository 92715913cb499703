"""Plain Flask with the handler in this process: the service's own answers, and a breakpoint."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import torch

from deploy.archive import mar
from deploy.service.app import build
from deploy.service.debug import InProcess, application
from deploy.service.models import Models
from tests.integration import countdown, quadrant

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debug")
    mar.seal(quadrant.make(folder / "artifacts"), folder / "store")
    countdown.seal(folder / "artifacts", folder / "store")
    return folder / "store"


@pytest.fixture
def client(store):
    threads = torch.get_num_threads()
    with asyncio.Runner() as runner:
        models = Models(process=InProcess)
        for name in ("quadrant.mar", "countdown.mar"):
            runner.run(models.register(store / name))
        yield application(build(models), runner.get_loop()).test_client()
        runner.run(models.close())
    torch.set_num_threads(threads)


def test_routes_and_answers_are_the_services(client):
    for path in ("/predictions/quadrant", "/quadrant/predict"):
        reply = client.post(path, data=quadrant.picture(2))
        assert (reply.status_code, reply.json["predictions"][0]["index"]) == (200, 2)
    bad = client.post("/predictions/quadrant", data=b"no picture")
    assert (bad.status_code, bad.json["code"]) == (400, 400)
    assert client.delete("/predictions/quadrant").status_code == 405
    assert client.get("/v2/models/quadrant/ready").json["ready"] is True
    streamed = client.post("/predictions/countdown", json={"data": 2, "stream": True})
    assert streamed.data.splitlines()[:2] == [b'{"number": 2}', b'{"number": 1}']
    (worker,) = client.get("/models/quadrant").json[0]["workers"]
    assert worker["pid"] == os.getpid()


def test_a_breakpoint_stops_in_the_handler(store, tmp_path):
    source = tmp_path / "handlers"
    shutil.copytree(ROOT / "handlers", source, ignore=shutil.ignore_patterns("__pycache__"))
    file = source / "image_classifier.py"
    verb = "    def postprocess(self, request: Request, results: list[torch.Tensor]) -> Any:\n"
    assert verb in file.read_text()
    file.write_text(file.read_text().replace(verb, verb + "        breakpoint()\n"))
    command = [sys.executable, "-m", "deploy", "flask", str(store / "quadrant.mar"), "--debug"]
    command += ["--handlers", str(source), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next(line.split()[1] for line in lines if line.startswith("debugging"))
    process.stdin.write("p 'labels:', self.card.labels[3]\ncontinue\n")
    process.stdin.flush()
    url = f"{address}/predictions/quadrant"
    assert requests.post(url, data=quadrant.picture(3), timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)  # SIGINT is the debugger's
    said, _ = process.communicate(timeout=60)
    assert "('labels:', 'bottom right')" in said
    assert process.returncode == 0
