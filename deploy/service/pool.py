"""Workers of one model version around one queue, with dynamic batching.

A worker takes the first request that waits, then up to batch_size - 1 more for as long as
max_batch_delay allows, as TorchServe's batch aggregator does. Each worker is a thread with a
handler of its own; PyTorch and the image libraries release the interpreter while they work.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from deploy.errors import BadInput
from deploy.service.row import Row
from deploy.service.worker import Answer, Send

QUEUE_SIZE = 100


class Serves(Protocol):
    """What a thread calls: a Worker."""

    def answer(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]: ...

    def close(self) -> None: ...


class Job:
    """One queued request; times are of time.monotonic, in seconds.

    `streams`: the client takes partial answers too.
    """

    def __init__(self, row: Row, headers: Mapping[str, Any], streams: bool = False) -> None:
        self.row = row
        self.headers = headers
        self.streams = streams
        self.queued = time.monotonic()
        self.started: float | None = None
        self.finished = 0.0
        self.answer: Answer | None = None
        self._partial: deque[Answer] = deque()
        self._last_sent = 0.0
        self._changed = threading.Condition()

    def send(self, partial: Answer) -> None:
        """Pass a partial answer to the waiting thread."""
        with self._changed:
            self._partial.append(partial)
            self._last_sent = time.monotonic()
            self._changed.notify_all()

    def finish(self, answer: Answer) -> None:
        """Pass the answer to the waiting thread."""
        with self._changed:
            self.answer = answer
            self.finished = time.monotonic()
            self._changed.notify_all()

    def partial(self, timeout: float) -> Answer | None:
        """The next partial answer; None if the whole one is there, or after `wait`'s timeout."""
        self._wait_for(lambda: bool(self._partial) or self.answer is not None, timeout)
        return self._partial.popleft() if self._partial else None

    def wait(self, timeout: float) -> Answer | None:
        """The answer; None when the worker has sent nothing for `timeout` seconds."""
        self._wait_for(lambda: self.answer is not None, timeout)
        return self.answer

    def _wait_for(self, condition: Callable[[], bool], timeout: float) -> None:
        with self._changed:
            while not self._changed.wait_for(
                condition, 0.25 if self.started is None else self._left(timeout)
            ):
                if self.started is not None and self._left(timeout) <= 0:
                    return

    def _left(self, timeout: float) -> float:
        assert self.started is not None
        return max(0.0, max(self.started, self._last_sent) + timeout - time.monotonic())


class Thread:
    """One worker thread; `failure` says why it could not start."""

    def __init__(self, number: int, name: str, run: Callable[["Thread"], None]) -> None:
        self.number = number
        self.started = datetime.now(UTC)
        self.ready = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it answers requests."""
        return self.ready.is_set() and self.failure is None

    def join(self, timeout: float) -> bool:
        """Whether it has ended within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


class Pool:
    """The threads and the queue. `make` loads a worker, in the thread that will use it."""

    def __init__(
        self, make: Callable[[], Serves], name: str, batch_size: int, delay_s: float
    ) -> None:
        self._make = make
        self._name = name
        self._batch_size = batch_size
        self._delay = delay_s
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._target = 0
        self._closed = False
        self._numbers = 0
        self.threads: list[Thread] = []

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def scale(self, workers: int, timeout: float) -> None:
        """Run that many workers, and return when they are ready. Raises BadInput."""
        with self._changed:
            self._target = workers
            fresh = [self._start() for _ in range(workers - len(self.threads))]
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in fresh:
            thread.ready.wait(max(0.0, deadline - time.monotonic()))
        failed = [t for t in fresh if t.failure is not None or not t.ready.is_set()]
        if failed:
            with self._changed:
                self._target = max(0, self._target - len(failed))
                self.threads = [t for t in self.threads if t not in failed]
                self._changed.notify_all()
            reason = failed[0].failure or f"not ready after {timeout:.0f} s"
            raise BadInput(str(reason))

    def submit(self, row: Row, headers: Mapping[str, Any], streams: bool = False) -> Job | None:
        """Queue a request; None when the pool has no workers or QUEUE_SIZE wait already."""
        job = Job(row, headers, streams)
        with self._changed:
            if self._closed or not self._target or len(self._waiting) >= QUEUE_SIZE:
                return None
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def close(self, timeout: float) -> bool:
        """Answer the waiting requests, then stop; whether that took at most `timeout` seconds."""
        with self._changed:
            self._closed = True
            threads = list(self.threads)
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        joined = [t.join(max(0.0, deadline - time.monotonic())) for t in threads]
        return all(joined)

    def _start(self) -> Thread:
        self._numbers += 1
        name = f"{self._name}-{self._numbers}"
        thread = Thread(9000 + self._numbers, name, self._run)
        self.threads.append(thread)
        return thread

    def _run(self, thread: Thread) -> None:
        try:
            worker = self._make()
        except BaseException as error:
            thread.failure = error
            thread.ready.set()
            return
        thread.ready.set()
        try:
            while batch := self._batch(thread):
                now = time.monotonic()
                for job in batch:
                    job.started = now
                answers = worker.answer(
                    [job.row for job in batch],
                    [job.headers for job in batch],
                    [job.send if job.streams else None for job in batch],
                )
                for job, answer in zip(batch, answers, strict=True):
                    job.finish(answer)
        finally:
            worker.close()

    def _batch(self, thread: Thread) -> list[Job]:
        """The next requests to answer together; empty when this thread is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._surplus(thread))
            # No thread ends while requests wait that no other thread would take.
            others = len(self.threads) > 1 and not self._closed
            if self._surplus(thread) and (others or not self._waiting):
                if thread in self.threads:
                    self.threads.remove(thread)
                return []
            batch = [self._waiting.popleft()]
            deadline = time.monotonic() + self._delay
            while len(batch) < self._batch_size:
                left = deadline - time.monotonic()
                if not self._waiting and (self._closed or left <= 0):
                    break
                if self._waiting:
                    batch.append(self._waiting.popleft())
                else:
                    self._changed.wait(left)
            return batch

    def _surplus(self, thread: Thread) -> bool:
        """Whether this thread is one too many; the youngest go first."""
        return self._closed or thread not in self.threads[: self._target]
