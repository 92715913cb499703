"""One way to run an archive, measured in a real TorchServe with the artifact's own samples."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deploy import samples
from deploy.archive import mar
from deploy.errors import BadInput
from deploy.torchserve import config as configuration
from deploy.torchserve import server
from deploy.torchserve.inference import content_type
from deploy.torchserve.rollout import registration
from deploy.torchserve.tokens import KEY_FILE, Tokens
from deploy.tune import settings as ways
from deploy.tune.clients import closed_loop, http_request
from deploy.tune.sandbox import STORE, sandbox
from deploy.tune.settings import Settings

_WARM_SECONDS = 0.5
_FIRST_WARM_SECONDS = 6.0  # until Java has compiled what it runs often


@dataclass(frozen=True)
class Point:
    """One number of clients: answers a second within the bound, in all, and by their worth (see
    `Answers.worth`), latencies in ms."""

    clients: int
    goodput: float
    rps: float
    worth: float
    p50_ms: float
    p99_ms: float
    refused: int

    def as_json(self) -> dict[str, Any]:
        """For a file of results."""
        return asdict(self)


class Bench:
    """A server to try settings in, one after the other."""

    def __init__(
        self, folder: Path, artifact: Path, engines: tuple[str, ...], allow_ops: Sequence[str]
    ) -> None:
        self._folder, self._engines, self._allow_ops = folder, engines, allow_ops
        self._config = configuration.read(folder / "config.properties")
        self._management, _ = server.clients(folder, self._config)
        self._tokens = Tokens(folder / KEY_FILE, self._config.management)
        self._copy = folder / "artifact"
        shutil.copytree(artifact, self._copy, ignore=shutil.ignore_patterns("stages", "tune.*"))
        self._warm_seconds = _FIRST_WARM_SECONDS
        self._samples = samples.read(artifact / "samples")
        if not self._samples:
            raise BadInput(f"{artifact / 'samples'} is empty: there is nothing to measure with")

    @contextmanager
    def serving(self, settings: Settings) -> Iterator["Served"]:
        """The archive run in this way, warmed up; gone from the server afterwards."""
        card = self._copy / "model.json"
        ways.write(card, settings)
        sealed = mar.seal(
            self._copy,
            self._folder / STORE,
            force=True,
            engines=self._engines,
            allow_ops=self._allow_ops,
        )
        name = sealed.name
        self._management.register(sealed.path.name, settings=registration(sealed.path))
        try:
            served = Served(self._config.inference, name, self._requests(name))
            served.measure(max(2, settings.workers), self._warm_seconds, float("inf"))
            self._warm_seconds = _WARM_SECONDS
            yield served
        finally:
            self._management.unregister(name, sealed.version)

    def _requests(self, name: str) -> list[bytes]:
        host = urlsplit(self._config.inference).netloc
        key = self._tokens.header("inference")
        return [
            http_request(
                host,
                f"/predictions/{name}",
                {"Content-Type": content_type(sample.path), **key},
                sample.path.read_bytes(),
            )
            for sample in self._samples
        ]


@dataclass(frozen=True)
class Served:
    """An archive that answers at `address`."""

    address: str
    name: str
    requests: list[bytes]

    def measure(self, clients: int, seconds: float, bound: float) -> Point:
        """A closed loop of so many clients; `bound` in seconds. Raises NoServer."""
        parts = urlsplit(self.address)
        place = (parts.hostname or "", parts.port or 80)
        answers = closed_loop(place, self.requests, clients, seconds)
        return Point(
            clients,
            round(answers.within(bound), 1),
            round(len(answers.latencies) / answers.seconds, 1),
            round(answers.worth(bound), 1),
            round(1e3 * answers.quantile(0.5), 2),
            round(1e3 * answers.quantile(0.99), 2),
            answers.others,
        )


@contextmanager
def bench(
    artifact: Path, config: Path, engines: tuple[str, ...] = (), allow_ops: Sequence[str] = ()
) -> Iterator[Bench]:
    """A TorchServe of its own on free ports, stopped at the end. Raises DeployError."""
    with sandbox(config) as folder:
        card = json.loads((artifact / "model.json").read_text(encoding="utf-8"))
        if not isinstance(card.get("serving"), dict):
            raise BadInput(f"{artifact / 'model.json'}: serving must be an object")
        server.start(folder, folder / "config.properties", folder / STORE)
        yield Bench(folder, artifact, engines, allow_ops)
