"""One request on its way through the queue: its deadline, its client, its answer."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from deploy.service.row import Row
from deploy.service.worker import Answer

Gone = Callable[[], bool]
"""Whether the client of a request has hung up."""


class Job:
    """One queued request; times are of time.monotonic, in seconds.

    `streams`: the client takes partial answers too. `timeout` seconds after the arrival, or after
    the last partial answer, the request is given up.
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
        self.answer: Answer | None = None
        self._timeout = timeout
        self._gone = gone
        self._given_up = False
        self._partial: deque[Answer] = deque()
        self.last_sent = 0.0
        self._changed = threading.Condition()

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._given_up or self._left() <= 0 or (self._gone is not None and self._gone())

    def send(self, partial: Answer) -> None:
        """Pass a partial answer to the waiting thread."""
        with self._changed:
            self._partial.append(partial)
            self.last_sent = time.monotonic()
            self._changed.notify_all()

    def finish(self, answer: Answer) -> None:
        """Pass the answer to the waiting thread."""
        with self._changed:
            self.answer = answer
            self.finished = time.monotonic()
            self._changed.notify_all()

    def partial(self) -> Answer | None:
        """The next partial answer; None if the whole one is there, or none came in time."""
        self._wait_for(lambda: bool(self._partial) or self.answer is not None)
        return self._partial.popleft() if self._partial else None

    def wait(self, timeout: float = math.inf) -> Answer | None:
        """The answer; None if it did not come in time. It is not computed then any more."""
        self._wait_for(lambda: self.answer is not None, timeout)
        if self.answer is None:
            self._given_up = True
        return self.answer

    def _wait_for(self, condition: Callable[[], bool], timeout: float = math.inf) -> None:
        deadline = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = min(self._left(), deadline - time.monotonic())
                if left <= 0:
                    return
                self._changed.wait(None if left == math.inf else left)

    def _left(self) -> float:
        """Seconds until the deadline."""
        return max(self.queued, self.last_sent) + self._timeout - time.monotonic()
