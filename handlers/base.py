"""The life of a worker and of a batch, for every task.

A task's handler derives from BaseHandler and supplies `preprocess`, `inference`
and `postprocess`, named as in TorchServe's own BaseHandler, and `setup`:
TorchServe's `initialize` is the base's, and calls it. The base reads the card,
loads and warms up the model, and answers each request of a batch on its own:
one that fails does not affect the others. Nothing here needs TorchServe:
`answer` serves any caller, `handle` is TorchServe's entry point to it.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from handlers import metrics as names
from handlers import runtimes, streaming
from handlers.backend import Predict, keep_freed_memory, load_model, warm_up
from handlers.card import Card, read_card, read_report
from handlers.errors import ModelError, RequestError, as_request_error, reason
from handlers.metrics import Metrics
from handlers.payload import Request, read_request
from handlers.streaming import Send
from handlers.worker import quiet_logs

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 10_485_760


@dataclass
class Reply:
    """One request's answer: HTTP status and JSON bytes."""

    status: int
    body: bytes


@dataclass
class _Job:
    """One request on its way through a batch."""

    request: Request | None = None
    inputs: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    description: Any = None
    error: RequestError | None = None


class BaseHandler:
    """One model in one process; derive and fill in what a task supplies."""

    task = ""
    parameters: tuple[str, ...] = ()

    card: Card
    folder: Path
    predict: Predict

    def __init__(self) -> None:
        self.initialized = False
        self.batch_limit = 1
        self.report: Any = None
        self.runtime = runtimes.Verdict("")
        self.metrics = Metrics(None, "")

    # What a task supplies.

    def setup(self) -> None:
        """Once, after the card and the model are loaded and before the warm-up."""

    def preprocess(self, request: Request) -> list[Any]:
        """One request to inputs of the model, or RequestError; check parameters here."""
        raise NotImplementedError

    def inference(self, inputs: list[Any]) -> list[Any]:
        """One result per input; at most `batch_limit` inputs, of any mixture of requests.

        A result that is a RequestError refuses the request that the input came from. What a
        result needs from its request (`explain`, `send`) travels in the input.
        """
        raise NotImplementedError

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        """One request's results to its JSON answer, of plain Python values."""
        raise NotImplementedError

    # What describe needs, and the warm-up.

    def example(self) -> Any:
        """An input to warm up with, as `preprocess` makes them; None for no warm-up."""
        return None

    def schemas(self) -> tuple[Any, Any]:
        """JSON Schemas of the request and of the answer."""
        return {}, {}

    # A worker's life.

    def initialize(self, context: Any) -> None:
        """Load and warm up the archive in context.system_properties["model_dir"].

        Raises ModelError (TorchServe reports it as a failed load).
        """
        quiet_logs()
        properties = context.system_properties
        self.folder = Path(properties["model_dir"]).resolve()
        _refuse_foreign_package(self.folder)
        self.card = read_card(self.folder)
        if self.task and self.card.task != self.task:
            raise ModelError(
                f"the card's task is {self.card.task!r}, this handler serves {self.task!r}"
            )
        self.report = read_report(self.folder)
        keep_freed_memory()
        self.predict = load_model(self.folder, self.card)
        self.runtime = runtimes.Verdict(self.card.model["file"])
        served = int(properties.get("batch_size") or 1)
        sizes = sorted({*self.card.batch_sizes, *range(1, served + 1)})
        self.batch_limit = max(sizes)
        self.setup()
        example = self.example()
        if example is not None:
            warm_up(lambda size: self.inference([example] * size), sizes)
            if self.card.alternatives:
                self._take_fastest(example, sizes, sorted({1, served}))
        self.metrics = names.served(context, self.card.name)
        self.initialized = True

    def _take_fastest(self, example: Any, sizes: list[int], timed: list[int]) -> None:
        """Serve from another runtime's file if it is measured to be faster here."""
        own = self.predict
        loads: list[list[tuple[Any, ...]]] = []
        for size in timed:
            loads.append([])
            self.predict = runtimes.recorded(own, loads[-1])
            self.inference([example] * size)
        self.predict = own
        verdict = runtimes.fastest(self.folder, self.card, loads)
        if verdict.file != self.runtime.file:
            try:
                self.predict = load_model(self.folder, runtimes.with_file(self.card, verdict.file))
                warm_up(lambda size: self.inference([example] * size), sizes)
            except ModelError as error:
                self.predict = own
                skipped = {**verdict.skipped, verdict.file: str(error)}
                verdict = replace(verdict, file=self.runtime.file, skipped=skipped)
        self.runtime = verdict
        logger.info("serving from %s: milliseconds %s", verdict.file, verdict.milliseconds)
        for file, why in verdict.skipped.items():
            logger.warning("%s does not serve: %s", file, why)

    def describe_handle(self) -> dict[str, Any]:
        """The model's name, runtime, labels, schemas and report: `describe?customized=true`."""
        request, response = self.schemas()
        return {
            "name": self.card.name,
            "task": self.card.task,
            "engine": asdict(self.runtime),
            "labels": self.card.labels,
            "input": request,
            "output": response,
            "report": self.report,
        }

    # A batch's life.

    def handle(self, data: Any, context: Any) -> list[bytes]:
        """TorchServe's entry point: a batch of requests to encoded JSON, never raising."""
        rows = list(data or [])
        headers = [_headers(context, index) for index in range(len(rows))]
        try:
            senders = [streaming.sender(context, index) for index in range(len(rows))]
            replies = self.answer(rows, headers, senders)
        except Exception as error:  # memory can run out anywhere
            failure = _explained(error)
            replies = [Reply(failure.status, failure.body())] * len(rows)
        for index, reply in enumerate(replies):
            context.set_response_content_type(index, "application/json")
            context.set_response_status(code=reply.status, phrase=reason(reply.status), idx=index)
        return [reply.body for reply in replies]

    def answer(
        self,
        rows: Sequence[Any],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None] | None = None,
    ) -> list[Reply]:
        """Answer a batch.

        Args:
            rows: one entry per request, as `read_request` takes them.
            headers: of each request.
            senders: functions that send partial answers to each client; None for no streaming.
        """
        senders = senders or [None] * len(rows)
        started = time.perf_counter()
        jobs = [
            self._preprocessed(row, head, sender)
            for row, head, sender in zip(rows, headers, senders, strict=True)
        ]
        preprocessed = time.perf_counter()
        count = self._run_inference(jobs)
        inferred = time.perf_counter()
        replies = [self._postprocessed(job) for job in jobs]
        if count:
            self.metrics.observe(names.PREPROCESS, preprocessed - started)
            self.metrics.observe(names.INFERENCE, inferred - preprocessed)
            self.metrics.observe(names.POSTPROCESS, time.perf_counter() - inferred)
            self.metrics.observe(names.BATCH_SIZE, count)
        return replies

    def _preprocessed(self, row: Any, headers: Mapping[str, Any], sender: Send | None) -> _Job:
        try:
            if headers.get("describe") == "True":
                return _Job(description=self.describe_handle())
            limit = int(self.card.input.get("max_bytes", DEFAULT_MAX_BYTES))
            request = read_request(row, headers, self.parameters, limit, sender)
            return _Job(request=request, inputs=self.preprocess(request))
        except Exception as error:
            return _Job(error=_explained(error))

    def _run_inference(self, jobs: list[_Job]) -> int:
        """Fill in results or errors; the number of inputs that went to the model."""
        waiting = [(job, value) for job in jobs for value in job.inputs]
        outcomes: list[Any] = []
        for start in range(0, len(waiting), self.batch_limit):
            part = [value for _, value in waiting[start : start + self.batch_limit]]
            outcomes.extend(self._isolated(part))
        for (job, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                job.error = job.error or outcome
            else:
                job.results.append(outcome)
        return len(waiting)

    def _isolated(self, inputs: list[Any]) -> list[Any]:
        """One result or RequestError per input: a batch that fails is retried one by one."""
        try:
            results = self.inference(inputs)
            if len(results) != len(inputs):
                raise RuntimeError(
                    f"inference gave {len(results)} results for {len(inputs)} inputs"
                )
            return results
        except Exception as error:
            if len(inputs) == 1:
                return [_explained(error)]
            logger.warning("a batch of %d failed, retrying one by one: %s", len(inputs), error)
        return [outcome for value in inputs for outcome in self._isolated([value])]

    def _postprocessed(self, job: _Job) -> Reply:
        if job.error is None:
            try:
                value = job.description
                if job.request is not None:
                    value = self.postprocess(job.request, job.results)
                return Reply(200, json.dumps(value, allow_nan=False).encode("ascii"))
            except Exception as error:
                job.error = _explained(error)
        self.metrics.error(job.error.status, job.error.type)
        return Reply(job.error.status, job.error.body())


def _explained(error: Exception) -> RequestError:
    """The error as the client will see it; an error of ours is logged with its traceback."""
    known = as_request_error(error)
    if known is not error:
        logger.error("a request failed with %d %s", known.status, known.type, exc_info=error)
    return known


def _headers(context: Any, index: int) -> Mapping[str, Any]:
    try:
        headers = context.get_all_request_header(index)
    except Exception:  # a caller without headers, or with fewer headers than requests
        return {}
    return headers if isinstance(headers, Mapping) else {}


def _refuse_foreign_package(folder: Path) -> None:
    """The handlers package in use must be the archive's own, if it carries one."""
    own = folder / "handlers"
    used = Path(__file__).resolve().parent
    if own.is_dir() and own.resolve() != used:
        raise ModelError(
            f"the archive carries handlers/, but {used} was imported instead: "
            "take its parent off PYTHONPATH and start TorchServe from another folder"
        )
