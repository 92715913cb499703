"""The models that one service has: several archives, several versions of each."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.archive.card import check_workers
from deploy.errors import BadInput
from deploy.service.bundle import Bundle, unpack
from deploy.service.context import Answer
from deploy.service.failure import Failure, ModelMissing, VersionMissing, internal, unavailable
from deploy.service.job import Gone, Job
from deploy.service.metrics import INFERENCE, QUEUE, REQUESTS, HandlerMetrics, Metrics
from deploy.service.pool import Pool
from deploy.service.process import Ended, Process, Told
from deploy.service.row import Row
from deploy.service.slot import Worker
from deploy.signing.policy import Policy

CLOSE_TIMEOUT = 30.0

Make = Callable[[Bundle, int | None, Told, Ended], Worker]
"""Makes a worker of an archive, within bytes of memory."""


@dataclass
class Model:
    """One version of a model with its workers.

    Attributes:
        min_workers: how many workers were asked for; `running` of them are ready.
        loaded: when, in seconds since 1970.
        described: the handler's description, once `metadata.description` has asked for it.
    """

    bundle: Bundle
    pool: Pool
    at_startup: bool = False
    min_workers: int = 1
    described: Any = None
    loaded: float = field(default_factory=time.time)

    @property
    def running(self) -> int:
        """How many workers answer requests."""
        return self.pool.running

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Answer the waiting requests, stop the workers, delete the unpacked archive.

        Returns whether every request was answered within `timeout` seconds.
        """
        done = await self.pool.close(timeout)
        await asyncio.to_thread(self.bundle.remove)
        return done


@dataclass
class _Asked:
    """A request in its model's queue."""

    job: Job
    model: Model
    metrics: Metrics
    labels: Mapping[str, str]

    async def answer(self) -> Answer:
        """The whole answer. Raises Failure 504 if there is none in time."""
        job = self.job
        answer = await job.answer()
        if answer is None or job.started is None:
            timeout = self.model.bundle.settings.response_timeout_s
            raise internal(504, f"the model gave no answer within {timeout} s")
        self.metrics.add(QUEUE, 1e6 * (job.started - job.queued), **self.labels)
        self.metrics.add(INFERENCE, 1e6 * (job.finished - job.started), **self.labels)
        return answer

    async def rest(self) -> AsyncIterator[Answer]:
        """Further partial answers as they come, then the whole one, or the failure."""
        try:
            while (partial := await self.job.partial()) is not None:
                yield partial
            yield await self.answer()
        except Failure as failure:
            yield Answer(failure.status, failure.body())


@dataclass
class _Versions:
    default: str
    models: dict[str, Model]


class Models:
    """Loads, unloads and finds models, in one event loop.

    `handlers` is a folder to use in place of the archives' own handlers/; `allow_ops` are
    operators that their TorchScript may call beyond the allowed ones; `trust` says whose archives
    are loaded; `memory_limit` is in bytes, of each worker.
    """

    def __init__(
        self,
        metrics: Metrics | None = None,
        handlers: Path | None = None,
        allow_ops: Collection[str] = (),
        trust: Policy | None = None,
        process: Make = Process,
        memory_limit: int | None = None,
    ) -> None:
        self._trust = trust or Policy()
        self.metrics = metrics or Metrics()
        self._memory_limit = memory_limit
        self._process = process
        self._handlers = handlers
        self._allow_ops = allow_ops
        self._all: dict[str, _Versions] = {}

    async def register(
        self, path: Path, workers: int | None = None, at_startup: bool = False
    ) -> Model:
        """Load an archive; its workers are ready when this returns.

        The first version of a name becomes its default. Raises BadInput for an archive that is
        not whole, Untrusted for one that `trust` does not admit, Failure 409 for a version that is
        loaded already, 500 for one that does not start.
        """
        bundle = await asyncio.to_thread(unpack, path, self._handlers, self._allow_ops)
        try:
            await asyncio.to_thread(self._trust.admit, path, bundle.sha256)
            self._refuse_known(bundle)
            model = await self._started(bundle, workers, at_startup)
        except BaseException:
            bundle.remove()
            raise
        try:
            self._refuse_known(bundle)
        except Failure:
            await model.close()
            raise
        versions = self._all.setdefault(bundle.name, _Versions(bundle.version, {}))
        versions.models[bundle.version] = model
        return model

    def get(self, name: str, version: str | None = None) -> Model:
        """A version of a model, the default without `version`. Raises Failure 404."""
        if name not in self._all:
            raise ModelMissing(name)
        versions = self._all[name]
        chosen = versions.default if version is None else version
        if chosen not in versions.models:
            raise VersionMissing(name, chosen)
        return versions.models[chosen]

    def names(self) -> list[str]:
        """The names of the models, in order."""
        return sorted(self._all)

    def health(self) -> str:
        """Healthy, Partial Healthy or Unhealthy, over the default versions, as TorchServe says."""
        defaults = [self.get(name) for name in self._all]
        asked = sum(model.min_workers for model in defaults)
        running = sum(model.running for model in defaults)
        if running and running < asked:
            return "Partial Healthy"
        return "Unhealthy" if asked and not running else "Healthy"

    def versions(self, name: str) -> list[Model]:
        """All versions of a model, the default first. Raises Failure 404."""
        default = self.get(name)
        return [default, *(m for m in self._all[name].models.values() if m is not default)]

    def set_default(self, name: str, version: str) -> None:
        """Make `version` the one that answers requests that name none. Raises Failure 404."""
        self.get(name)
        if version not in self._all[name].models:
            message = f"Model version {version} does not exist for model {name}"
            raise Failure(404, "ModelVersionNotFoundException", message)
        self._all[name].default = version

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Unload a version once it has answered its waiting requests. Raises Failure."""
        model = self.get(name, version)
        versions = self._all[name]
        if model.bundle.version == versions.default and len(versions.models) > 1:
            message = f"Cannot remove default version for model {name}"
            raise Failure(403, "InvalidModelVersionException", message)
        del versions.models[model.bundle.version]
        if not versions.models:
            del self._all[name]
        await model.close()

    async def scale(self, model: Model, workers: int) -> None:
        """Run that many workers of a model. Raises Failure 500."""
        bundle = model.bundle
        try:
            await model.pool.scale(workers, bundle.settings.startup_timeout_s)
        except BadInput as error:
            which = f"Failed to start workers for model {bundle.name} version: {bundle.version}"
            raise internal(500, f"{error}. {which}") from error
        model.min_workers = model.pool.target

    async def ask(
        self,
        name: str,
        version: str | None,
        row: Row,
        headers: Mapping[str, Any],
        gone: Gone | None = None,
    ) -> Answer:
        """One request's answer. Raises Failure: 404, 503 when too many wait, 504 for no answer.

        `gone` tells whether the client has hung up: then nothing is computed.
        """
        return await self._asked(name, version, row, headers, gone).answer()

    async def stream(
        self,
        name: str,
        version: str | None,
        row: Row,
        headers: Mapping[str, Any],
        gone: Gone | None = None,
    ) -> tuple[Answer, AsyncIterator[Answer]]:
        """The first answer, and those that follow it if it is a partial one.

        Raises Failure as `ask` does; after a first answer a failure is yielded as the last one.
        """
        asked = self._asked(name, version, row, headers, gone, streams=True)
        first = await asked.job.partial()
        return first or await asked.answer(), asked.rest()

    def _asked(
        self,
        name: str,
        version: str | None,
        row: Row,
        headers: Mapping[str, Any],
        gone: Gone | None,
        streams: bool = False,
    ) -> _Asked:
        """A request in its model's queue. Raises Failure."""
        model = self.get(name, version)
        labels = {"model_name": name, "model_version": version or "default"}
        self.metrics.add(REQUESTS, 1, **labels)
        job = model.pool.submit(row, headers, streams, gone)
        if job is None:
            raise unavailable(name, version, model.pool.expected_wait)
        return _Asked(job, model, self.metrics, labels)

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Unload everything; whether all waiting requests were answered in `timeout` seconds."""
        loaded = [m for versions in self._all.values() for m in versions.models.values()]
        self._all.clear()
        closed = await asyncio.gather(*(model.close(timeout) for model in loaded))
        return all(closed)

    def _refuse_known(self, bundle: Bundle) -> None:
        known = self._all.get(bundle.name)
        if known is not None and bundle.version in known.models:
            message = (
                f"Model version {bundle.version} is already registered for model {bundle.name}"
            )
            raise Failure(409, "ConflictStatusException", message)

    async def _started(self, bundle: Bundle, workers: int | None, at_startup: bool) -> Model:
        settings = bundle.settings
        if workers is None:
            check_workers(settings.workers, bundle.name)
        pool = Pool(
            lambda told, ended: self._process(bundle, self._memory_limit, told, ended),
            f"{bundle.name} {bundle.version}",
            settings.batch_size,
            settings.response_timeout_s,
            HandlerMetrics(self.metrics, bundle.name, bundle.version).take,
        )
        model = Model(bundle, pool, at_startup)
        try:
            await self.scale(model, settings.workers if workers is None else workers)
        except BaseException:
            await pool.close(CLOSE_TIMEOUT)
            raise
        return model
