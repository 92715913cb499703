"""A TorchServe beside the one that serves: free ports, a folder of its own, gone at the end.

What a killed process left, its server included, is ended by the next one that needs a sandbox.
"""

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy import scratch
from deploy.torchserve import server
from deploy.torchserve.config import ADDRESSES, GRPC

KIND = "tune"
STORE = "model_store"
_SETTINGS = Path(__file__).resolve().parents[1] / "torchserve"
_PORTS = 1 + len(ADDRESSES) + len(GRPC)


@contextmanager
def sandbox(config: Path) -> Iterator[Path]:
    """A folder to start a server in: `config` on free ports as config.properties, and a store.

    The server that was started in it is stopped at the end.
    """
    sweep()
    with scratch.folder(KIND) as folder:
        (folder / STORE).mkdir()
        place = folder / "deploy" / "torchserve"
        place.mkdir(parents=True)
        for path in (*_SETTINGS.glob("*.yaml"), *_SETTINGS.glob("*.xml")):
            shutil.copyfile(path, place / path.name)
        text = on_free_ports(config.read_text(encoding="utf-8"))
        (folder / "config.properties").write_text(text, encoding="utf-8")
        try:
            yield folder
        finally:
            server.stop(folder)


def sweep() -> None:
    """Stop the servers of processes that were killed, and delete their folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{scratch.PREFIX}{KIND}-*"):
        if scratch.is_left(folder):
            with contextlib.suppress(OSError):
                server.stop(folder)
            scratch.remove_left(folder)


def on_free_ports(text: str) -> str:
    """The .properties `text` with every port replaced by one that nothing listens on now."""
    first, *ports = free_ports(_PORTS)
    changes = {f"{name}_address": f"http://127.0.0.1:{ports.pop()}" for name in ADDRESSES}
    changes |= {f"{name}_port": str(ports.pop()) for name in GRPC}
    changes["initial_worker_port"] = str(first)
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in changes]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in changes.items())]) + "\n"


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports of loopback that nothing listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
