"""`python -m deploy serve`: everything for one artifact, once, and again after a change."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch

from deploy.archive.verify import verify
from deploy.errors import DeployError
from deploy.torchserve import server
from tests.integration import quadrant
from tests.integration.torchserve import ROOT, Running, connect, workplace


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A workplace whose server, if a test starts one, is stopped at the end."""
    with workplace() as workdir:
        try:
            yield workdir
        finally:
            server.stop(workdir)


def deploy(workdir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in `workdir`, as `make serve` does at the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", "deploy", *words],
        cwd=workdir,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_an_artifact_it_says_how_to_make_one(place: Path) -> None:
    done = deploy(place, "serve", "nobody")
    assert done.returncode == 2
    assert "python -m optimize run recipes/nobody.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_artifact_that_failed_its_gate_is_not_served(place: Path) -> None:
    quadrant.make(place / "artifacts", "failed", passed=False)
    done = deploy(place, "serve", "failed")
    assert done.returncode == 3
    assert "accuracy dropped by 0.0075 where 0.01 is allowed" in done.stderr
    assert not (place / "model_store" / "failed.mar").exists()
    assert server.running(place) is None


def test_from_an_artifact_to_an_answer(place: Path) -> None:
    quadrant.make(place / "artifacts")
    done = deploy(place, "serve", "quadrant")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    words = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert words[:6] == ["archive", "signed", "server", "model", "sample", "answer"]
    (answer,) = [line for line in lines if line.startswith("answer")]
    assert answer.startswith("answer    bottom left 0.9") and answer.endswith("(right)")
    assert "0.75 points lower on 4 samples" in done.stdout
    assert "40.0x smaller" in done.stdout
    assert "20.0x faster" in done.stdout


def test_the_commands_it_prints_work(place: Path) -> None:
    """Pasted into a shell, but for the name of the interpreter."""
    printed = deploy(place, "serve", "quadrant").stdout
    script = printed[printed.index("Try next") :].partition("\n")[2].replace("make stop", "true")
    script = script.replace(".venv/bin/python", sys.executable)
    done = subprocess.run(
        ["sh", "-euc", script.replace("curl ", "curl -sS --fail-with-body ")],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"bottom left"' in done.stdout
    assert "customizedMetadata" in done.stdout
    assert "marpress_inference_seconds_count" in done.stdout


def test_what_is_done_is_not_done_again(place: Path) -> None:
    running = connect(place)
    pids = running.pids("quadrant")
    stamp = (place / "model_store" / "quadrant.mar").stat().st_mtime_ns
    done = deploy(place, "serve", "quadrant", "--json")
    assert "up to date" in done.stderr
    assert "server    running at" in done.stderr
    assert "registered already" in done.stderr
    found = json.loads(done.stdout)
    (answer,) = found["answers"]
    assert (answer["label"], answer["right"]) == ("bottom left", True)
    assert found["archive"]["model"] == "quadrant" and found["metric"]["name"] == "accuracy"
    assert found["inference"].startswith("http://127.0.0.1:")
    assert running.pids("quadrant") == pids
    assert (place / "model_store" / "quadrant.mar").stat().st_mtime_ns == stamp


def test_a_changed_artifact_takes_over_without_a_failed_request(place: Path) -> None:
    running = connect(place)
    old = running.management.describe("quadrant")[0]["modelVersion"]
    card_file = place / "artifacts" / "quadrant" / "model.json"
    card = json.loads(card_file.read_text())
    card["labels"] = [label.upper() for label in quadrant.LABELS]
    quadrant.write(card_file, card)
    shout(place)
    askers = [Asker(running) for _ in range(4)]
    for asker in askers:
        asker.start()
    done = deploy(place, "serve", "quadrant")
    for asker in askers:
        asker.stop()
    assert done.returncode == 0, done.stderr
    assert f"version {old} retired" in done.stdout
    for asker in askers:
        assert asker.failures == []
        assert set(asker.labels) == {"top right", "TOP RIGHT"}
    assert len(running.management.describe("quadrant", "all")) == 1
    store = place / "model_store"
    assert verify(store / f"quadrant-{old}.mar").version == old, "the old archive stays beside"
    assert verify(store / "quadrant.mar").version != old


@pytest.mark.parametrize("fault", ["wrong", "raises", "no load", "no load, same version"])
def test_a_version_that_fails_leaves_the_old_one(place: Path, fault: str) -> None:
    """Whatever fails: exit not 0, the same workers, the same archive in use."""
    running = connect(place)
    before = running.management.describe("quadrant", "all")
    archive = (place / "model_store" / "quadrant.mar").read_bytes()
    artifact = place / "artifacts" / "quadrant"
    kept = place / "kept"
    shutil.copytree(artifact, kept)
    try:
        if fault == "wrong":
            card = json.loads((artifact / "model.json").read_text())
            card["labels"] = [*card["labels"][1:], card["labels"][0]]
            quadrant.write(artifact / "model.json", card)
        elif fault == "raises":
            torch.jit.save(torch.jit.script(Bright()), str(artifact / "model.pt"))
            quadrant.bind(artifact)
        else:
            card = json.loads((artifact / "model.json").read_text())
            card["model"]["quantized_engine"] = "abacus"
            quadrant.write(artifact / "model.json", card)
        words = ["serve", "quadrant"]
        if fault == "no load, same version":
            version = before[0]["modelVersion"]
            assert deploy(place, "archive", "quadrant", "--version", version).returncode == 0
        done = deploy(place, *words)
    finally:
        shutil.rmtree(artifact)
        kept.rename(artifact)
    assert done.returncode == (1 if fault.startswith("no load") else 6), done.stderr
    assert done.stderr.startswith("deploy serve: ")
    if fault == "no load, same version":
        (place / "model_store" / "quadrant.mar").write_bytes(archive)  # archive replaced it
    after = running.management.describe("quadrant", "all")
    assert [e["modelVersion"] for e in after] == [e["modelVersion"] for e in before]
    assert [w["pid"] for w in after[0]["workers"]] == [w["pid"] for w in before[0]["workers"]]
    assert (place / "model_store" / "quadrant.mar").read_bytes() == archive
    reply = running.inference.predict("quadrant", quadrant.picture(1), "image/png")
    assert reply["predictions"][0]["label"] == "TOP RIGHT"


def test_two_at_once_are_one_roll_out(place: Path) -> None:
    """Both say what is served in the end, and one version is."""
    running = connect(place)
    (place / "artifacts" / "quadrant" / "note.txt").write_text("two at once")
    card_file = place / "artifacts" / "quadrant" / "model.json"
    card = json.loads(card_file.read_text())
    quadrant.write(card_file, {**card, "files": ["note.txt"]})
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: deploy(place, "serve", "quadrant"), range(2)))
    assert [done.returncode for done in both] == [0, 0], [done.stderr for done in both]
    told = sorted("registered already" in done.stdout for done in both)
    assert told == [False, True]
    (entry,) = running.management.describe("quadrant", "all")
    assert verify(place / "model_store" / "quadrant.mar").version == entry["modelVersion"]


def test_one_version_name_over_other_content_is_replaced(place: Path) -> None:
    running = connect(place)
    assert deploy(place, "archive", "quadrant", "--version", "1.0").returncode == 0
    assert "version 1.0, registered through" in deploy(place, "serve", "quadrant").stdout
    card_file = place / "artifacts" / "quadrant" / "model.json"
    card = json.loads(card_file.read_text())
    quadrant.write(card_file, {**card, "labels": quadrant.LABELS})
    shout(place, quadrant.LABELS[2])
    assert deploy(place, "archive", "quadrant", "--version", "1.0").returncode == 0
    assert "version 1.0, replaced" in deploy(place, "serve", "quadrant").stdout
    assert [e["modelVersion"] for e in running.management.describe("quadrant", "all")] == ["1.0"]
    reply = running.inference.predict("quadrant", quadrant.picture(0), "image/png")
    assert reply["predictions"][0]["label"] == "top left"


def test_a_model_without_workers_gets_them_again(place: Path) -> None:
    running = connect(place)
    running.management.scale("quadrant", 0)
    assert "started again" in deploy(place, "serve", "quadrant").stdout
    assert len(running.pids("quadrant")) == 1


def test_the_verbs_of_the_management_api(place: Path) -> None:
    assert deploy(place, "archive", "quadrant").returncode == 0
    for words, code, out in [
        (("status",), 0, "quadrant version 1.0: 1 of 1 ready"),
        (("status", "--json"), 0, '"ready": 1'),
        (("list", "--json"), 0, '"quadrant": "quadrant-1.0.mar"'),
        (("describe", "quadrant"), 0, '"modelVersion": "1.0"'),
        (("describe", "quadrant", "--customized"), 0, '"labels"'),
        (("register", "quadrant.mar"), 0, "registered with 1 initial workers"),
        (("register", "quadrant.mar"), 1, "already registered"),
        (("register", "http://host/quadrant.mar"), 1, "Only archives in the model store"),
        (("describe", "nobody"), 1, "python -m deploy list"),
        (("unregister", "quadrant", "--version", "1.0"), 1, "default version"),
        (("scale", "quadrant", "1"), 0, "scaled to 1"),
        (("predict", "quadrant", "artifacts/quadrant/samples/0.png"), 0, '"bottom left"'),
        (("predict", "quadrant", "no.png"), 2, "no.png cannot be read"),
        (("predict", "quadrant", "config.properties"), 1, "TorchServe answered 4"),
        (("unregister", "nobody"), 1, "not found"),
    ]:
        done = deploy(place, *words)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert out in done.stdout + done.stderr, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        if words == ("status", "--json"):
            (model,) = json.loads(done.stdout)["models"]
            assert (model["name"], model["version"], model["workers"]) == ("quadrant", "1.0", 1)
            assert (model["signature"]["state"], model["adopted"]) == ("unsigned", False)


def test_stop_and_stop_again(place: Path) -> None:
    state = server.running(place)
    assert state is not None
    done = deploy(place, "stop")
    assert (done.returncode, f"process {state.pid}" in done.stdout) == (0, True)
    assert not psutil.pid_exists(state.pid)
    done = deploy(place, "stop")
    assert (done.returncode, done.stdout) == (0, "no TorchServe to stop here\n")
    done = deploy(place, "status")
    assert done.returncode == 4
    assert "deploy start" in done.stderr


def shout(place: Path, label: str = quadrant.LABELS[2].upper()) -> None:
    """Have the artifact expect this label of its sample."""
    artifact = place / "artifacts" / "quadrant"
    quadrant.write(artifact / "samples" / "labels.json", {"0.png": label})
    quadrant.bind(artifact)


class Bright(torch.nn.Module):
    """Takes the pictures of the warm-up, whose rows are alike, and fails on any other."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if bool((pixels[:, :, 0] != pixels[:, :, -1]).any()):
            raise RuntimeError("too bright")
        return torch.zeros(len(pixels), 4)


class Asker(threading.Thread):
    """Sends one good picture after another until told to stop."""

    def __init__(self, running: Running) -> None:
        super().__init__()
        self._running = running
        self._done = threading.Event()
        self.labels: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._done.is_set():
            try:
                reply = self._running.inference.predict("quadrant", quadrant.picture(1))
                self.labels.append(reply["predictions"][0]["label"])
            except DeployError as error:
                self.failures.append(str(error))

    def stop(self) -> None:
        """Let the last question finish."""
        self._done.set()
        self.join()
