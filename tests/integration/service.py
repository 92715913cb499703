"""The microservice as a process of its own, as a person starts it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.integration.torchserve import ROOT, free_ports


@dataclass(frozen=True)
class Service:
    """A running `python -m deploy serve-archive`."""

    process: subprocess.Popen
    address: str
    management: str
    workdir: Path
    log: Path

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serving(
    workdir: Path, *archives: Path, options: Sequence[str] = (), **environment: str
) -> Iterator[Service]:
    """The service; it must end with 0 at SIGTERM."""
    inference, management = free_ports(2)
    command = [sys.executable, "-m", "deploy", "serve-archive", *map(str, archives)]
    command += ["--workdir", str(workdir), "--model-store", str(workdir / "model_store")]
    command += ["--port", str(inference), "--management-port", str(management)]
    command += options
    with _started(command, workdir, inference, management, environment) as service:
        yield service


@contextmanager
def _started(
    command: list[str], workdir: Path, port: int, management: int, environment: dict[str, str]
) -> Iterator[Service]:
    log = workdir / "service.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=workdir,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = Service(
        process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{management}", workdir, log
    )
    try:
        _wait(service)
        yield service
        if process.poll() is None:
            assert service.stop() == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(service: Service) -> None:
    for _ in range(900):
        assert service.process.poll() is None, service.log.read_text()
        try:
            requests.get(service.address + "/ping", timeout=60)
            return
        except requests.ConnectionError:
            time.sleep(0.2)
    pytest.fail("the service does not answer: " + service.log.read_text())
