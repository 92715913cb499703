"""A worker's place in a pool: the process that fills it now, and the batch it works on."""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from deploy.errors import BadInput
from deploy.service.job import Job
from deploy.service.wire import Batch


class Worker(Protocol):
    """What the pool needs of a worker process: a `process.Process`."""

    @property
    def pid(self) -> int | None: ...

    async def start(self) -> None: ...

    def send(self, batch: Batch) -> None: ...

    def end(self) -> None: ...

    def kill(self) -> None: ...

    async def gone(self) -> None: ...

    def how(self) -> str: ...


Make = Callable[[Callable[[dict[str, Any], list[bytes]], None], Callable[[], None]], Worker]
"""Makes a worker, not started yet; the two are called with its messages, and at its end."""


class Slot:
    """The place, with a `number` for the log; made in an event loop."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.started = datetime.now(UTC)
        self.worker: Worker | None = None
        self.running = False
        self.retired = False
        self.batch: list[Job] = []
        self.since = 0.0  # of the batch, or of its last partial answer
        self.launched = math.inf  # when its process was started
        self.heard = 0.0  # the last sign of life
        self.asked = 0.0  # when it was asked for one; 0.0: it was not
        self.hung = False  # it is ended for that
        self.failures = 0  # in a row, without an answer in between
        self.reason = ""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """Of the process, if there is one."""
        return self.worker.pid if self.worker is not None else None

    @property
    def idle(self) -> bool:
        """Whether it can take a batch."""
        return self.running and not self.batch and not self.retired

    def kill(self) -> None:
        """End the process at once, if there is one."""
        if self.worker is not None:
            self.worker.kill()

    def not_ready(self, reason: str) -> None:
        """Say why it will not be, to whoever waits for it."""
        self.ready.set_exception(BadInput(reason))
        self.ready.exception()  # retrieved, even where nobody waits any more
