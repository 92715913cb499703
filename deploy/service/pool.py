"""Worker processes of one model version around one queue, with dynamic batching.

A free worker takes what waits, up to the batch size, and never waits for company: a lone request
goes at once, and under load batches fill by themselves.

A worker that ends, or that answers nothing for as long as a request may take, is replaced. The
requests it had are each tried once more, alone, so that one which ends workers is found: it gets
500 WORKER_DIED, the others their answers. At most one such request is with a worker at a time, so
that where there are several workers the rest go on; its time counts from there.

A request has a deadline from its arrival: one that cannot be met is refused at once, and what
nobody waits for any more is not computed. Everything here runs in one event loop.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from deploy.errors import BadInput
from deploy.service.context import Answer
from deploy.service.failure import worker_died
from deploy.service.job import Gone, Job
from deploy.service.row import Row
from deploy.service.slot import Make, Slot
from deploy.service.waiting import Waiting
from deploy.service.wire import Batch

logger = logging.getLogger(__name__)

QUEUE_SIZE = 100
PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before a worker is started again
MAX_DEATHS = 2
GRACE = 0.5  # seconds after the deadline of a lone request until its worker is ended
HEARTBEAT = 5.0  # seconds of idleness after which a worker is asked for a sign of life
_TICK = 0.1


Recorded = Callable[[list[list[Any]]], None]
"""Takes what a handler's metrics recorded."""


class Pool:
    """The workers and the queue.

    Args:
        make: makes a worker.
        name: for the log.
        batch_size: the most requests that a worker is given together.
        timeout: seconds from a request's arrival to its answer, or between partial answers.
        recorded: takes what the handlers record.
    """

    def __init__(
        self,
        make: Make,
        name: str,
        batch_size: int,
        timeout: float = math.inf,
        recorded: Recorded = lambda records: None,
    ) -> None:
        self._make = make
        self._name = name
        self._batch_size = batch_size
        self._timeout = timeout
        self._recorded = recorded
        self._batch_seconds = 0.0  # of late
        self._waiting = Waiting()
        self._target = 0
        self._startup = math.inf
        self._closed = False
        self._numbers = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self.slots: list[Slot] = []

    @property
    def target(self) -> int:
        """How many workers were asked for last, less those that did not start."""
        return self._target

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many workers can answer requests."""
        return sum(slot.running for slot in self.slots)

    @property
    def expected_wait(self) -> float:
        """Seconds until a request that came now would be answered, judged by the last batches."""
        ahead = self.pending + sum(len(slot.batch) for slot in self.slots)
        batches = math.ceil((ahead + 1) / self._batch_size)
        return math.ceil(batches / max(1, self._target)) * self._batch_seconds

    async def scale(self, workers: int, timeout: float) -> None:
        """Run that many workers, and return when they are ready.

        Raises BadInput where one does not start, or fewer were asked for meanwhile.
        """
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick_on())
        self._target = workers
        self._startup = timeout
        kept = [slot for slot in self.slots if not slot.retired]
        fresh = [self._add() for _ in range(workers - len(kept))]
        for slot in kept[workers:]:
            self._let_go(slot)
        if not fresh:
            return
        await asyncio.wait([slot.ready for slot in fresh], timeout=timeout)
        failed = [s for s in fresh if not s.ready.done() or s.ready.exception() is not None]
        if any(slot.retired for slot in failed):
            raise BadInput("fewer workers were asked for meanwhile")
        if failed:
            self._target = max(0, self._target - len(failed))
            self.slots = [slot for slot in self.slots if slot not in failed]
            reason = f"not ready after {timeout:.0f} s"
            for slot in failed:
                slot.retired = True
                if slot.ready.done():
                    reason = str(slot.ready.exception())
                slot.kill()
            raise BadInput(reason)

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
        if self._closed or not self._target:
            return None
        if self._is_full():
            self._waiting.give_up_abandoned()
            if self._is_full():
                return None
        job = Job(row, headers, streams, self._timeout, gone)
        self._waiting.add(job)
        self._dispatch()
        return job

    async def close(self, timeout: float) -> bool:
        """Answer the waiting requests, then stop; whether that took at most `timeout` seconds."""
        self._closed = True
        deadline = time.monotonic() + timeout
        while (self.pending or any(s.batch for s in self.slots)) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        finished = not self.pending and not any(slot.batch for slot in self.slots)
        if self._ticker is not None:
            self._ticker.cancel()
        workers = [slot.worker for slot in self.slots if slot.worker is not None]
        for slot in self.slots:
            slot.retired = True
        for worker in workers:
            worker.end() if finished else worker.kill()
        for job in [*self._waiting, *(j for s in self.slots for j in s.batch)]:
            job.finish(None)
        await asyncio.gather(*(worker.gone() for worker in workers), *self._tasks)
        self.slots = []
        return finished

    # Batches

    def _is_full(self) -> bool:
        late = self._waiting.queued and self.expected_wait > self._timeout
        return self.pending >= QUEUE_SIZE or late

    def _dispatch(self) -> None:
        """Give free workers what waits."""
        while self._waiting:
            slot = next((slot for slot in self.slots if slot.idle), None)
            if slot is None:
                return
            trying = any(job.deaths for other in self.slots for job in other.batch)
            if not (batch := self._waiting.take(self._batch_size, trying)):
                return
            slot.batch = batch
            slot.since = time.monotonic()
            for job in batch:
                job.started = slot.since
            assert slot.worker is not None
            slot.worker.send(
                Batch(
                    [job.row for job in batch],
                    [job.headers for job in batch],
                    [job.streams for job in batch],
                )
            )

    # A worker's life

    def _add(self) -> Slot:
        self._numbers += 1
        slot = Slot(9000 + self._numbers)
        self.slots.append(slot)
        self._start(slot, 0.0)
        return slot

    def _start(self, slot: Slot, pause: float) -> None:
        task = asyncio.create_task(self._started(slot, pause))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _started(self, slot: Slot, pause: float) -> None:
        before = slot.worker
        if before is not None:
            await before.gone()
            logger.warning("worker %d of %s %s", slot.number, self._name, before.how())
        deadline = time.monotonic() + pause
        while not self._closed and not slot.retired and time.monotonic() < deadline:
            await asyncio.sleep(min(_TICK, pause))
        if slot.retired or (self._closed and not self.pending):
            return
        worker = self._make(
            lambda head, blobs: self._told(slot, head, blobs), lambda: self._ended(slot)
        )
        slot.worker, slot.reason, slot.launched = worker, "", time.monotonic()
        try:
            await worker.start()
        except OSError as error:
            logger.error("worker %d of %s does not start: %s", slot.number, self._name, error)
            slot.reason = str(error)
            self._ended(slot)

    def _told(self, slot: Slot, head: dict[str, Any], blobs: list[bytes]) -> None:
        kind = head["kind"]
        slot.heard, slot.asked = time.monotonic(), 0.0
        if kind == "answers":
            self._answered(slot, head, blobs)
        elif kind == "partial":
            slot.since = slot.heard
            answer = Answer(head["status"], blobs[0], head["type"], partial=True)
            slot.batch[head["at"]].send(answer)
        elif kind == "ready":
            slot.running = True
            slot.started = datetime.now(UTC)
            if not slot.ready.done():
                slot.ready.set_result(None)
            self._dispatch()
        elif kind == "failed":
            slot.reason = str(head["reason"])

    def _answered(self, slot: Slot, head: dict[str, Any], blobs: list[bytes]) -> None:
        answers = [
            (job, Answer(status, body, kind, headers=headers))
            for job, (status, kind, headers), body in zip(
                slot.batch, head["answers"], blobs, strict=True
            )
        ]
        slot.batch = []
        spent = time.monotonic() - slot.since
        self._batch_seconds += (spent - self._batch_seconds) / (4 if self._batch_seconds else 1)
        slot.failures = 0
        if slot.retired:
            self._retire(slot)
        else:
            self._dispatch()  # first: the worker has nothing to do
        for job, answer in answers:
            job.finish(answer)
        self._recorded(head["metrics"])

    def _let_go(self, slot: Slot) -> None:
        """Have a worker end once it has answered its batch."""
        slot.retired = True
        if not slot.batch:
            self._retire(slot)
        if not slot.ready.done():
            slot.not_ready("it is not wanted any more")

    def _retire(self, slot: Slot) -> None:
        if slot in self.slots:
            self.slots.remove(slot)
        if slot.worker is not None:
            slot.worker.end()

    def _ended(self, slot: Slot) -> None:
        """The process has gone, or its connection."""
        batch, slot.batch = slot.batch, []
        slot.running = False
        slot.asked = 0.0
        for job in batch:
            self._try_again(job)
        if batch and not slot.hung:
            # What waits did not make it end, and pays with no time for its being started again.
            self._waiting.again()
        slot.hung = False
        if not slot.ready.done():
            slot.not_ready(slot.reason or "the worker ended before it was ready")
        elif slot.retired:
            self._retire(slot)
        else:
            if slot.reason:
                logger.error("worker %d of %s: %s", slot.number, self._name, slot.reason)
            pause = PAUSES[min(slot.failures, len(PAUSES) - 1)]
            slot.failures += 1
            self._start(slot, pause)
        self._dispatch()

    def _try_again(self, job: Job) -> None:
        """A request whose worker has ended."""
        job.deaths += 1
        if job.done:
            return
        if job.deaths >= MAX_DEATHS or job.last_sent or not self._target:
            failure = worker_died(job.deaths)
            job.finish(Answer(failure.status, failure.body()))
            return
        self._waiting.suspect(job)

    # Time

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        """Give up what is late, end workers that hang, ask idle ones for a sign of life."""
        self._waiting.give_up_late()
        for slot in self.slots:
            if slot.batch:
                self._watch(slot, now)
            elif slot.running and slot.worker is not None:
                if slot.asked and now - slot.asked > self._timeout + GRACE:
                    logger.error("worker %d of %s is stuck", slot.number, self._name)
                    slot.worker.kill()
                elif not slot.asked and now - slot.heard > HEARTBEAT:
                    slot.asked = now
                    slot.worker.send(Batch())
            elif not slot.running and now - slot.launched > self._startup:
                slot.launched = math.inf
                slot.reason = f"not ready after {self._startup:g} s"
                slot.kill()

    def _watch(self, slot: Slot, now: float) -> None:
        silent = now - slot.since
        if len(slot.batch) == 1:
            job = slot.batch[0]
            if job.late:
                job.finish(None)
            hangs = silent > self._timeout + GRACE
        else:
            hangs = silent > self._timeout
        if hangs and slot.worker is not None:
            logger.error(
                "worker %d of %s gave no answer within %g s", slot.number, self._name, silent
            )
            slot.since, slot.hung = now, True
            slot.worker.kill()
