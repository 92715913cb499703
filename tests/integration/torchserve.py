"""A real TorchServe on free ports, in a folder of its own, with this repository's settings."""

import contextlib
import itertools
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.torchserve import config, server
from deploy.torchserve.inference import Inference
from deploy.torchserve.management import Management
from deploy.torchserve.tokens import Tokens

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Running:
    """A started server: where it runs and how to reach it."""

    workdir: Path
    settings: config.Config
    management: Management
    inference: Inference

    @property
    def tokens(self) -> Tokens:
        """The keys of this server."""
        return Tokens(self.workdir / "key_file.json", self.settings.management)

    def pids(self, name: str) -> list[int]:
        """The process ids of a model's workers."""
        return sorted(int(w["pid"]) for w in self.management.describe(name)[0]["workers"])

    def header(self, kind: str = "inference") -> dict[str, str]:
        """The Authorization header for `inference` or `management`."""
        return self.tokens.header("management" if kind == "management" else "inference")


def _candidates() -> Iterator[int]:
    """Ports below those that kernels give to connections; each process of pytest-xdist has 500."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + worker % 16 * 500
    start = os.getpid() % 500  # another run beside this one begins elsewhere
    return itertools.cycle([first + (start + step) % 500 for step in range(500)])


CANDIDATES = _candidates()


def free_ports(count: int) -> list[int]:
    """Distinct ports that nothing listens on now, and that no other test process picks."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            port = next(CANDIDATES)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


@contextmanager
def workplace(**overrides: Any) -> Iterator[Path]:
    """A folder like the repository's root: its config.properties on free ports, a model store.

    `overrides` replace or add properties. The folder lies directly under the system's
    temporary folder, since sockets need short paths.
    """
    with tempfile.TemporaryDirectory(prefix="marpress-test-") as name:
        workdir = Path(name)
        (workdir / "model_store").mkdir()
        shutil.copytree(
            ROOT / "deploy",
            workdir / "deploy",
            ignore=shutil.ignore_patterns("*.py", "__pycache__"),
        )
        inference, management, metrics, grpc_inference, grpc_management, worker = free_ports(6)
        changes = {
            "inference_address": f"http://127.0.0.1:{inference}",
            "management_address": f"http://127.0.0.1:{management}",
            "metrics_address": f"http://127.0.0.1:{metrics}",
            "grpc_inference_port": grpc_inference,
            "grpc_management_port": grpc_management,
            "initial_worker_port": worker,
            **overrides,
        }
        (workdir / "config.properties").write_text(
            with_properties((ROOT / "config.properties").read_text(), changes)
        )
        yield workdir


def with_properties(text: str, changes: dict[str, Any]) -> str:
    """The .properties `text` with some values replaced or added, all else as it was."""
    kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in changes]
    return "\n".join([*kept, *(f"{key}={value}" for key, value in changes.items())]) + "\n"


@contextmanager
def torchserve(workdir: Path, models: list[str] | None = None) -> Iterator[Running]:
    """Start a server in a `workplace`, and stop it at the end whatever happens."""
    try:
        server.start(workdir, workdir / "config.properties", workdir / "model_store", models)
        yield connect(workdir)
    finally:
        server.stop(workdir)


def connect(workdir: Path) -> Running:
    """Clients of a server that runs in `workdir`."""
    settings = config.read(workdir / "config.properties")
    management, inference = server.clients(workdir, settings)
    return Running(workdir, settings, management, inference)
