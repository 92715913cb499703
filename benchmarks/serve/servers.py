"""The servers of the race: how each is started, and where it is asked."""

import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serve.guard import ROOT, Guarded
from benchmarks.serve.kinds import BOUNDARY, Kind, multipart
from benchmarks.serve.load import Target
from deploy.archive import mar
from deploy.tune.sandbox import free_ports

BENCH = ROOT / ".venv-bench" / "bin"
START_SECONDS = 90.0


@dataclass(frozen=True)
class Server:
    """How a server is started.

    `command` makes the command line from the place it serves from; `path` is the route;
    `idles` is false for one whose processes use the processor while nobody asks, which therefore
    runs only while it is measured.
    """

    command: Callable[["Place"], list[str]]
    path: str = "/predict"
    form: bool = False
    idles: bool = True


@dataclass(frozen=True)
class Place:
    """What a server needs: the unpacked archive, the artifact, a folder of its own, a port."""

    kind: Kind
    artifact: Path
    unpacked: Path
    folder: Path
    port: int

    @property
    def info(self) -> Path:
        """Where a server that chooses its own address writes it."""
        return self.folder / "info.json"


def _torchserve(place: Place) -> list[str]:
    app = "benchmarks.serve.torchserve_app"
    return [sys.executable, "-m", app, str(place.artifact), str(place.info)]


def _service(place: Place) -> list[str]:
    sealed = mar.seal(place.artifact, place.folder / "store", force=True)
    command = [sys.executable, "-m", "deploy", "flask", str(sealed.path), "--port", str(place.port)]
    (management,) = free_ports(1)
    return [*command, "--management-port", str(management), "--workdir", str(place.folder)]


def _flask(place: Place) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--log-level", "error"]
    app = "benchmarks.serve.peers.flask_app:build()"
    return [*command, "--bind", f"127.0.0.1:{place.port}", "--keep-alive", "60", app]


def _fastapi(place: Place) -> list[str]:
    command = [str(BENCH / "python"), "-m", "uvicorn", "--workers", "2", "--log-level", "error"]
    app = "benchmarks.serve.peers.fastapi_app:build"
    return [*command, "--port", str(place.port), "--no-access-log", "--factory", app]


def _litserve(batch: int) -> Callable[[Place], list[str]]:
    app = "benchmarks.serve.peers.litserve_app"
    return lambda place: [str(BENCH / "python"), "-m", app, str(place.port), str(batch)]


def _mosec(place: Place) -> list[str]:
    app = "benchmarks.serve.peers.mosec_app"
    command = [str(BENCH / "python"), "-m", app, "--port", str(place.port), "--timeout", "60000"]
    socket = place.folder / "mosec"
    return [*command, "--address", "127.0.0.1", "--path", str(socket), "--log-level", "warning"]


def _bentoml(place: Place) -> list[str]:
    app = "benchmarks.serve.peers.bentoml_app:Model"
    command = [str(BENCH / "python"), "-m", "bentoml", "serve", app, "--host", "127.0.0.1"]
    return [*command, "--port", str(place.port), "--production"]


def _ray(place: Place) -> list[str]:
    return [str(BENCH / "python"), "-m", "benchmarks.serve.peers.ray_app", str(place.port)]


SERVERS: dict[str, Server] = {
    "torchserve": Server(_torchserve),
    "service": Server(_service, path="/predictions/{name}"),
    "flask": Server(_flask),
    "fastapi": Server(_fastapi),
    "litserve": Server(_litserve(1), form=True, idles=False),
    "litserve_batch4": Server(_litserve(4), form=True, idles=False),
    "mosec": Server(_mosec, path="/inference"),
    "bentoml": Server(_bentoml, form=True),
    "ray": Server(_ray, idles=False),
}
OURS = ("torchserve", "service")


class ServerError(RuntimeError):
    """A server did not start."""


@contextmanager
def running(name: str, place: Place, body: bytes) -> Iterator[tuple[Target, Guarded]]:
    """The server, once it has answered `body`. Raises ServerError with the end of its log."""
    place.folder.mkdir(parents=True, exist_ok=True)
    place.info.unlink(missing_ok=True)
    server = SERVERS[name]
    guarded = Guarded(server.command(place), _environment(place), place.folder / "server.log")
    try:
        target = _awaited(name, server, place, guarded, body)
        yield target, guarded
    finally:
        guarded.close()


def _environment(place: Place) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "FOLDER": str(place.unpacked),
        "CONTENT_TYPE": place.kind.content_type,
        "RAY_USAGE_STATS_ENABLED": "0",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(place.folder),
    }


def _awaited(name: str, server: Server, place: Place, guarded: Guarded, body: bytes) -> Target:
    deadline = time.monotonic() + START_SECONDS
    problem: Exception | None = None
    while time.monotonic() < deadline and guarded.alive():
        try:
            target = _target(server, place)
            ask(target, multipart(body, place.kind.content_type) if server.form else body)
            return target
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            problem = error
        time.sleep(0.25)
    tail = guarded.log.read_text(errors="replace")[-2000:]
    raise ServerError(f"{name} does not answer ({problem}):\n{tail}")


def _target(server: Server, place: Place) -> Target:
    content_type = place.kind.content_type
    if server.form:
        content_type = f"multipart/form-data; boundary={BOUNDARY}"
    if server.command is _torchserve:
        told = json.loads(place.info.read_text())
        return Target(told["url"], content_type, told["key"])
    path = server.path.format(name=json.loads((place.unpacked / "model.json").read_text())["name"])
    return Target(f"http://127.0.0.1:{place.port}{path}", content_type, form=server.form)


def ask(target: Target, body: bytes) -> bytes:
    """One answer. Raises RuntimeError for any status but 200."""
    address = urlsplit(target.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    try:
        headers = {"Content-Type": target.content_type}
        if target.key:
            headers["Authorization"] = target.key
        connection.request("POST", address.path, body, headers)
        reply = connection.getresponse()
        answer = reply.read()
    finally:
        connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{target.url}: {reply.status} {answer[:300]!r}")
    return answer
