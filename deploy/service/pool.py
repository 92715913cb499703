"""Workers of one model version around one queue, with dynamic batching.

A worker takes the first request that waits, then up to batch_size - 1 more for as long as
max_batch_delay allows, as TorchServe's batch aggregator does. Each worker is a thread with a
handler of its own; PyTorch and the image libraries release the interpreter while they work.

A request has a deadline from its arrival: one that cannot be met is refused at once, and what
nobody waits for any more is not computed.
"""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from deploy.errors import BadInput
from deploy.service.failure import internal
from deploy.service.job import Gone, Job
from deploy.service.row import Row
from deploy.service.worker import Answer, Send

logger = logging.getLogger(__name__)

QUEUE_SIZE = 100
RELOAD_PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before the attempts to load a worker again


class Serves(Protocol):
    """What a thread calls: a Worker."""

    def answer(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]: ...

    def close(self) -> None: ...


class Thread:
    """One worker thread; `failure` says why it could not start, or start again.

    `busy` is the batch it works on; `progress` when it last took one or a partial answer left.
    """

    def __init__(self, number: int, name: str, run: Callable[["Thread"], None]) -> None:
        self.number = number
        self.started = datetime.now(UTC)
        self.ready = threading.Event()
        self.failure: BaseException | None = None
        self.busy: list[Job] = []
        self.progress = time.monotonic()
        self._thread = threading.Thread(target=run, args=(self,), name=name, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it answers requests."""
        return self.ready.is_set() and self.failure is None

    def silent(self) -> float:
        """For how many seconds it has worked on one batch without a sign of life."""
        batch = self.busy
        if not batch:
            return 0.0
        return time.monotonic() - max(self.progress, *(job.last_sent for job in batch))

    def join(self, timeout: float) -> bool:
        """Whether it has ended within `timeout` seconds."""
        self._thread.join(timeout)
        return not self._thread.is_alive()


class Pool:
    """The threads and the queue.

    Args:
        make: loads a worker, in the thread that will use it.
        name: of the threads.
        batch_size, delay_s: of the batches.
        timeout: seconds from a request's arrival to its answer, or between partial answers.
    """

    def __init__(
        self,
        make: Callable[[], Serves],
        name: str,
        batch_size: int,
        delay_s: float,
        timeout: float = math.inf,
    ) -> None:
        self._make = make
        self._name = name
        self._batch_size = batch_size
        self._delay = delay_s
        self._timeout = timeout
        self._batch_seconds = 0.0  # of late
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

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that came now would be answered, judged by the last batches."""
        ahead = self.pending + sum(len(thread.busy) for thread in list(self.threads))
        batches = math.ceil((ahead + 1) / self._batch_size)
        return math.ceil(batches / max(1, self._target)) * self._batch_seconds

    @property
    def stuck(self) -> bool:
        """Whether all workers have shown no progress for twice the time a request may take."""
        threads = [thread for thread in list(self.threads) if thread.running]
        return bool(threads) and all(t.silent() > 2 * self._timeout for t in threads)

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

    def submit(
        self,
        row: Row,
        headers: Mapping[str, Any],
        streams: bool = False,
        gone: Gone | None = None,
    ) -> Job | None:
        """Queue a request; None where it cannot be answered in time.

        That is when the pool has no workers, QUEUE_SIZE wait already, or the queue is longer than
        what the workers can do within the timeout. `gone` tells whether its client has hung up.
        """
        job = Job(row, headers, streams, self._timeout, gone)
        with self._changed:
            if len(self._waiting) >= QUEUE_SIZE or (
                self._waiting and self.expected_wait > self._timeout
            ):
                self._waiting = deque(job for job in self._waiting if not job.abandoned)
            full = len(self._waiting) >= QUEUE_SIZE
            late = bool(self._waiting) and self.expected_wait > self._timeout
            if self._closed or not self._target or full or late:
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
        worker = self._load(thread)
        thread.ready.set()
        while worker is not None and (batch := self._batch(thread)):
            if self._answer(worker, thread, batch):
                continue
            # What is no Exception (a panic of a library in Rust is not) may have left anything
            # behind: a fresh worker goes on, as a fresh process would in TorchServe.
            _close(worker)
            worker = self._load_again(thread)
        if worker is not None:
            _close(worker)

    def _answer(self, worker: Serves, thread: Thread, batch: list[Job]) -> bool:
        """Answer a batch; False if the worker failed with more than an Exception."""
        started = time.monotonic()
        thread.progress, thread.busy = started, batch
        for job in batch:
            job.started = started
        answers = [Answer(503, internal(503, "Prediction failed").body()) for _ in batch]
        try:
            answers = worker.answer(
                [job.row for job in batch],
                [job.headers for job in batch],
                [job.send if job.streams else None for job in batch],
            )
        except BaseException:
            logger.exception("a worker of %s failed on a batch of %d", self._name, len(batch))
            return False
        finally:
            for job, answer in zip(batch, answers, strict=True):
                job.finish(answer)
            thread.busy = []
            # One that hung says nothing about the next.
            spent = min(time.monotonic() - started, self._timeout)
            self._batch_seconds += (spent - self._batch_seconds) / (4 if self._batch_seconds else 1)
        return True

    def _load(self, thread: Thread) -> Serves | None:
        try:
            return self._make()
        except BaseException as error:
            thread.failure = error
            return None

    def _load_again(self, thread: Thread) -> Serves | None:
        """A fresh worker, tried until it loads; None once the pool wants this thread no more."""
        thread.failure = RuntimeError("the worker failed and is loaded again")
        for attempt in itertools.count():
            try:
                worker = self._make()
            except BaseException:
                logger.exception("a worker of %s does not load again", self._name)
                pause = RELOAD_PAUSES[min(attempt, len(RELOAD_PAUSES) - 1)]
                with self._changed:
                    if self._changed.wait_for(lambda: self._surplus(thread), pause):
                        break
            else:
                thread.failure = None
                return worker
        with self._changed:
            if thread in self.threads:
                self.threads.remove(thread)
        return None

    def _batch(self, thread: Thread) -> list[Job]:
        """The next requests to answer together; empty when this thread is to end."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._surplus(thread))
                # No thread ends while requests wait that no other thread would take.
                others = len(self.threads) > 1 and not self._closed
                if self._surplus(thread) and (others or not self._waiting):
                    if thread in self.threads:
                        self.threads.remove(thread)
                    return []
                if batch := self._collected():
                    return batch

    def _collected(self) -> list[Job]:
        """The first request that somebody waits for and its company; the lock is held."""
        batch: list[Job] = []
        deadline = time.monotonic() + self._delay
        while len(batch) < self._batch_size:
            while self._waiting and len(batch) < self._batch_size:
                job = self._waiting.popleft()
                if not job.abandoned:
                    batch.append(job)
            left = deadline - time.monotonic()
            if not batch or self._closed or left <= 0 or len(batch) == self._batch_size:
                break
            self._changed.wait(left)
        return batch

    def _surplus(self, thread: Thread) -> bool:
        """Whether this thread is one too many; the youngest go first."""
        return self._closed or thread not in self.threads[: self._target]


def _close(worker: Serves) -> None:
    try:
        worker.close()
    except BaseException:
        logger.exception("a worker did not close")
