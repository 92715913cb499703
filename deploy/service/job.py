"""One request on its way through the queue: its deadline, its client, its answer."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from deploy.service.context import Answer
from deploy.service.row import Row

Gone = Callable[[], bool]
"""Whether the client of a request has hung up."""


class Job:
    """One queued request; times are of time.monotonic, in seconds.

    `streams`: the client takes partial answers too. `timeout` seconds after the arrival, or after
    the last partial answer, the request is given up. `deaths` counts the workers that ended while
    they had it.
    """

    def __init__(
        self,
        row: Row,
        headers: Mapping[str, Any],
        streams: bool = False,
        timeout: float = math.inf,
        gone: Gone | None = None,
    ) -> None:
        self.row = row
        self.headers = headers
        self.streams = streams
        self.queued = time.monotonic()
        self.started: float | None = None
        self.finished = 0.0
        self.deaths = 0
        self.last_sent = 0.0
        self._since = self.queued
        self._timeout = timeout
        self._gone = gone
        self._answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._partial: deque[Answer] = deque()
        self._news: asyncio.Future[None] | None = None  # of a client that waits for partial answers

    @property
    def done(self) -> bool:
        """Whether it was answered or given up."""
        return self._answer.done()

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() >= max(self._since, self.last_sent) + self._timeout

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.done or self.late or (self._gone is not None and self._gone())

    def again(self) -> None:
        """Give it its time anew: it is to be tried once more."""
        self._since = time.monotonic()

    def send(self, partial: Answer) -> None:
        """Pass a partial answer on."""
        self.last_sent = time.monotonic()
        if self.streams and not self.done:
            self._partial.append(partial)
            self._tell()

    def finish(self, answer: Answer | None) -> None:
        """Pass the answer on; None for a request that is given up."""
        self.finished = time.monotonic()
        if not self.done:
            self._answer.set_result(answer)
            self._tell()

    async def partial(self) -> Answer | None:
        """The next partial answer; None if the whole one is there, or none came in time."""
        while self.streams and not self._partial and not self.done:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._partial.popleft() if self._partial else None

    async def answer(self) -> Answer | None:
        """The answer; None if it did not come in time."""
        return await self._answer

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
