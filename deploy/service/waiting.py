"""The requests that wait for a worker, in the order in which they are tried."""

from collections import deque
from collections.abc import Iterator

from deploy.service.job import Job


class Waiting:
    """The queue, and apart from it the suspects: requests whose worker ended."""

    def __init__(self) -> None:
        self._queue: deque[Job] = deque()
        self._suspects: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._queue) + len(self._suspects)

    def __iter__(self) -> Iterator[Job]:
        yield from self._queue
        yield from self._suspects

    @property
    def queued(self) -> bool:
        """Whether any waits that is no suspect."""
        return bool(self._queue)

    def add(self, job: Job) -> None:
        """Queue a request."""
        self._queue.append(job)

    def suspect(self, job: Job) -> None:
        """Have a request tried once more, alone."""
        self._suspects.append(job)

    def clear(self) -> None:
        """Forget all."""
        self._queue.clear()
        self._suspects.clear()

    def take(self, most: int, trying: bool) -> list[Job]:
        """The next requests to answer together, at most `most`: one suspect, unless another is
        being tried. One that nobody waits for is given up."""
        while self._suspects and not trying:
            job = self._suspects.popleft()
            job.again()
            if _is_wanted(job):
                return [job]
        batch: list[Job] = []
        while self._queue and len(batch) < most:
            job = self._queue.popleft()
            if _is_wanted(job):
                batch.append(job)
        return batch

    def give_up_abandoned(self) -> None:
        """Drop those of the queue that nobody waits for."""
        self._queue = deque(job for job in self._queue if _is_wanted(job))

    def give_up_late(self) -> None:
        """End those of the queue whose deadline has passed."""
        for job in self._queue:
            if job.late:
                job.finish(None)
        if self._queue and self._queue[0].done:
            self._queue = deque(job for job in self._queue if not job.done)

    def again(self) -> None:
        """Start the time of those of the queue anew."""
        for job in self._queue:
            job.again()


def _is_wanted(job: Job) -> bool:
    """Whether somebody waits for the answer; a request that nobody waits for is given up."""
    if job.abandoned:
        job.finish(None)
        return False
    return True
