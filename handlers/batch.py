"""A batch's life: every request on its own, the cheap ones first, none that ends too late."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from handlers import budget
from handlers import metrics as names
from handlers.budget import Budget
from handlers.errors import RequestError, as_request_error
from handlers.metrics import Metrics
from handlers.payload import Request
from handlers.streaming import Send

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """An answer that a handler encodes itself: bytes, their type, and headers beside it."""

    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Reply:
    """One request's answer: HTTP status, bytes, their type, and headers beside it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class Serves(Protocol):
    """What a batch asks of its handler: see `handlers.base.BaseHandler`."""

    batch_limit: int
    budget: Budget
    metrics: Metrics

    def describe_handle(self) -> dict[str, Any]: ...
    def read(self, row: Any, headers: Mapping[str, Any], sender: Send | None) -> Request: ...
    def preprocess(self, request: Request) -> list[Any]: ...
    def cost(self, value: Any) -> float: ...
    def decode(self, value: Any) -> Any: ...
    def inference(self, inputs: list[Any]) -> list[Any]: ...
    def postprocess(self, request: Request, results: list[Any]) -> Any: ...


@dataclass
class _Job:
    """One request on its way through a batch; `costs` are of its inputs, in the handler's unit."""

    request: Request | None = None
    inputs: list[Any] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    description: Any = None
    error: RequestError | None = None


class Batch:
    """One batch of one handler."""

    def __init__(self, handler: Serves) -> None:
        self.handler = handler
        self.started = time.perf_counter()
        self.count = 0  # inputs that went to the model
        self.spent = dict.fromkeys((names.PREPROCESS, names.INFERENCE, names.POSTPROCESS), 0.0)

    def answer(
        self,
        rows: Sequence[Any],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Reply]:
        """One reply per request, never raising for what a request causes."""
        jobs = [self._read(*sent) for sent in zip(rows, headers, senders, strict=True)]
        self._spend(names.PREPROCESS, self.started)
        parts = self.handler.budget.parts([job.costs for job in jobs])
        for number, part in enumerate(parts):
            self._run([jobs[position] for position in part if jobs[position].inputs], number)
        begun = time.perf_counter()
        replies = [self._reply(job) for job in jobs]
        self._spend(names.POSTPROCESS, begun)
        if self.count:
            for name, seconds in self.spent.items():
                self.handler.metrics.observe(name, seconds)
            self.handler.metrics.observe(names.BATCH_SIZE, self.count)
        return replies

    def _spend(self, name: str, since: float) -> None:
        self.spent[name] += time.perf_counter() - since

    def _read(self, row: Any, headers: Mapping[str, Any], sender: Send | None) -> _Job:
        """Check a request and charge it."""
        handler = self.handler
        try:
            if headers.get("describe") == "True":
                return _Job(description=handler.describe_handle())
            request = handler.read(row, headers, sender)
            job = _Job(request, handler.preprocess(request))
            job.costs = [handler.cost(value) for value in job.inputs]
            handler.budget.charge(job.costs)
            return job
        except Exception as error:
            return _Job(error=explained(error))

    def _run(self, jobs: list[_Job], number: int) -> None:
        """Decode and infer the part of that number."""
        begun = time.perf_counter()
        elapsed = begun - self.started
        if number and self.handler.budget.too_late(elapsed, [job.costs for job in jobs]):
            for job in jobs:
                job.error = budget.busy()
            return
        for job in jobs:
            self._decode(job)
        self._spend(names.PREPROCESS, begun)
        begun = time.perf_counter()
        self._infer([job for job in jobs if job.error is None])
        self._spend(names.INFERENCE, begun)
        for job in jobs:
            job.inputs = []

    def _decode(self, job: _Job) -> None:
        assert job.request is not None
        try:
            for index, value in enumerate(job.inputs):
                with job.request.naming(index):
                    job.inputs[index] = self.handler.decode(value)
        except Exception as error:
            job.error = explained(error)

    def _infer(self, jobs: list[_Job]) -> None:
        """Fill in results or errors."""
        waiting = [(job, value) for job in jobs for value in job.inputs]
        limit = self.handler.batch_limit
        outcomes: list[Any] = []
        for start in range(0, len(waiting), limit):
            outcomes += self._isolated([value for _, value in waiting[start : start + limit]])
        for (job, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                job.error = job.error or outcome
            else:
                job.results.append(outcome)
        self.count += len(waiting)

    def _isolated(self, inputs: list[Any]) -> list[Any]:
        """One result or RequestError per input: a batch that fails is retried one by one."""
        try:
            results = self.handler.inference(inputs)
            if len(results) != len(inputs):
                raise RuntimeError(
                    f"inference gave {len(results)} results for {len(inputs)} inputs"
                )
            return results
        except Exception as error:
            if len(inputs) == 1:
                return [explained(error)]
            logger.warning("a batch of %d failed, retrying one by one: %s", len(inputs), error)
        return [outcome for value in inputs for outcome in self._isolated([value])]

    def _reply(self, job: _Job) -> Reply:
        if job.error is None:
            try:
                value = job.description
                if job.request is not None:
                    value = self.handler.postprocess(job.request, job.results)
                if isinstance(value, Encoded):
                    return Reply(200, value.body, value.content_type, value.headers)
                return Reply(200, json.dumps(value, allow_nan=False).encode("ascii"))
            except Exception as error:
                job.error = explained(error)
        self.handler.metrics.error(job.error.status, job.error.type)
        return Reply(job.error.status, job.error.body())


def explained(error: Exception) -> RequestError:
    """The error as the client will see it; an error of ours is logged with its traceback.

    A new one: the traceback holds the frames that failed, and with them all the request's data.
    """
    known = as_request_error(error)
    if known is not error:
        logger.error("a request failed with %d %s", known.status, known.type, exc_info=error)
    return RequestError(known.status, known.type, known.message)
