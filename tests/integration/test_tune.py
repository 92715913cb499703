"""`deploy tune` on a real server: what it leaves in the card, and behind it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from deploy import scratch
from deploy.torchserve import server
from deploy.tune import sandbox
from tests.integration import quadrant
from tests.integration.torchserve import ROOT


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    quadrant.make(tmp_path / "artifacts", max_batch_delay_ms=5)
    return tmp_path / "artifacts"


def command(artifacts: Path, *arguments: str) -> list[str]:
    place = ["--artifacts", str(artifacts), "--workdir", str(artifacts.parent)]
    place += ["--config", str(ROOT / "config.properties")]
    return [sys.executable, "-m", "deploy", "tune", "quadrant", *place, *arguments]


def tuner(artifacts: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(artifacts, *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": tempfile.gettempdir()},
    )


def servers() -> set[int]:
    """Process ids of the servers in sandboxes."""
    folders = Path(tempfile.gettempdir()).glob(f"{scratch.PREFIX}{sandbox.KIND}-*")
    states = [server.running(folder) for folder in folders]
    return {state.pid for state in states if state is not None}


def test_the_card_holds_what_was_measured_and_a_killed_tuner_leaves_nothing(
    artifacts: Path,
) -> None:
    before = servers()
    killed = tuner(artifacts, "--minutes", "5")
    while not (left := servers() - before):
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.1)
    killed.kill()
    killed.communicate()
    assert all(map(psutil.pid_exists, left)), "the server outlives a tuner that is killed"

    done = tuner(artifacts, "--minutes", "0.01", "--clients", "1,2", "--p99", "10s")
    output = done.communicate()[0]
    assert done.returncode == 0, output
    assert not servers() - before and not any(map(psutil.pid_exists, left))
    assert "chosen: 1 x 1 threads, batch 8, delay 5 ms" in output
    folder = artifacts / "quadrant"
    found = json.loads((folder / "tune.json").read_text())
    assert found["chosen"]["max_batch_delay_ms"] == 5
    assert [point["clients"] for point in found["tried"][0]["points"]] == [1, 2]
    assert all(point["goodput"] > 0 for point in found["tried"][0]["points"])
    assert (folder / "tune.svg").read_text().startswith("<svg")
    card = json.loads((folder / "model.json").read_text())
    assert card["serving"]["batch_size"] == 8 and card["model"]["batch_sizes"] == [*range(1, 9)]
