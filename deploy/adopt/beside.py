"""A service of this program for a while, on a free port of this machine."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from deploy.errors import NoServer
from deploy.torchserve import http

START_TIMEOUT = 300.0  # seconds
STOP_TIMEOUT = 60.0


@contextmanager
def service(archive: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """Serve an archive and give the service's address; it is stopped at the end.

    Raises NoServer, with the end of its log, if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="marpress-compare-") as name:
        port, management = _free(), _free()
        command = [sys.executable, "-m", "deploy", "serve-archive", str(archive.resolve())]
        command += ["--workdir", name, "--port", str(port), "--management-port", str(management)]
        log = Path(name) / "service.log"
        with log.open("wb") as sink:
            process = subprocess.Popen([*command, *options], stdout=sink, stderr=subprocess.STDOUT)
        try:
            _wait(process, f"http://127.0.0.1:{port}", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            http.request("GET", f"{address}/ping", timeout=5)
            return
        except requests.RequestException:
            time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace").strip()[-1500:]
    raise NoServer(f"the archive is not served here:\n{said}")


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
