"""The life of a worker and of a batch, for every task.

A task's handler derives from BaseHandler and supplies four verbs: `setup`,
`parse`, `infer`, `render`. The base reads the card, loads and warms up the
model, and answers each request of a batch on its own: whatever one of them is
or does, the others get their answers. Nothing here needs TorchServe: `answer`
serves any caller, `handle` is TorchServe's view of it.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from handlers import engines
from handlers import metrics as names
from handlers.backend import Predict, keep_freed_memory, load_model, warm_up
from handlers.card import Card, read_card, read_report
from handlers.errors import ModelError, RequestError, as_request_error, reason
from handlers.metrics import Metrics
from handlers.payload import Request, read_request
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
    items: list[Any] | None = None
    results: list[Any] | None = None
    value: Any = None
    error: RequestError | None = None


class BaseHandler:
    """One model in one process; derive and fill in the four verbs."""

    task = ""
    parameters: tuple[str, ...] = ()

    card: Card
    folder: Path
    predict: Predict

    def __init__(self) -> None:
        self.initialized = False
        self.batch_limit = 1
        self.report: Any = None
        self.engine = engines.Verdict("")
        self.metrics = Metrics(None, "")

    # The four verbs.

    def setup(self) -> None:
        """Once, after the card and the model are loaded and before the warm-up."""

    def parse(self, request: Request) -> list[Any]:
        """One request to items for the model, or RequestError; check parameters here."""
        raise NotImplementedError

    def infer(self, items: list[Any]) -> list[Any]:
        """One result per item; at most `batch_limit` items, of any mixture of requests."""
        raise NotImplementedError

    def render(self, request: Request, results: list[Any]) -> Any:
        """One request's results to its JSON answer, of plain Python values."""
        raise NotImplementedError

    # What describe needs, and the warm-up.

    def example(self) -> Any:
        """An item to warm up with, as `parse` makes them; None for no warm-up."""
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
        self.engine = engines.Verdict(self.card.model["file"])
        served = int(properties.get("batch_size") or 1)
        sizes = sorted({*self.card.batch_sizes, *range(1, served + 1)})
        self.batch_limit = max(sizes)
        self.setup()
        example = self.example()
        if example is not None:
            warm_up(lambda size: self.infer([example] * size), sizes)
            if self.card.alternatives:
                self._take_fastest(example, sizes, sorted({1, served}))
        self.metrics = Metrics(getattr(context, "metrics", None), self.card.name)
        self.initialized = True

    def _take_fastest(self, example: Any, sizes: list[int], timed: list[int]) -> None:
        """Serve from another engine's file if it is measured to be faster here."""
        own = self.predict
        loads: list[list[tuple[Any, ...]]] = []
        for size in timed:
            loads.append([])
            self.predict = engines.recorded(own, loads[-1])
            self.infer([example] * size)
        self.predict = own
        verdict = engines.fastest(self.folder, self.card, loads)
        if verdict.file != self.engine.file:
            try:
                self.predict = load_model(self.folder, engines.with_file(self.card, verdict.file))
                warm_up(lambda size: self.infer([example] * size), sizes)
            except ModelError as error:
                self.predict = own
                skipped = {**verdict.skipped, verdict.file: str(error)}
                verdict = replace(verdict, file=self.engine.file, skipped=skipped)
        self.engine = verdict
        logger.info("serving from %s: milliseconds %s", verdict.file, verdict.milliseconds)
        for file, why in verdict.skipped.items():
            logger.warning("%s does not serve: %s", file, why)

    def describe_handle(self) -> dict[str, Any]:
        """The model's name, engine, labels, schemas and report: `describe?customized=true`."""
        request, response = self.schemas()
        return {
            "name": self.card.name,
            "task": self.card.task,
            "engine": asdict(self.engine),
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
            replies = self.answer(rows, headers)
        except Exception as error:  # memory can run out anywhere
            failure = _explained(error)
            replies = [Reply(failure.status, failure.body())] * len(rows)
        for index, reply in enumerate(replies):
            context.set_response_content_type(index, "application/json")
            context.set_response_status(code=reply.status, phrase=reason(reply.status), idx=index)
        return [reply.body for reply in replies]

    def answer(self, rows: Sequence[Any], headers: Sequence[Mapping[str, Any]]) -> list[Reply]:
        """Answer a batch; `rows` and `headers` are as `read_request` takes them."""
        started = time.perf_counter()
        jobs = [self._parsed(row, head) for row, head in zip(rows, headers, strict=True)]
        parsed = time.perf_counter()
        count = self._infer_jobs(jobs)
        inferred = time.perf_counter()
        replies = [self._rendered(job) for job in jobs]
        if count:
            self.metrics.observe(names.PREPROCESS, parsed - started)
            self.metrics.observe(names.INFERENCE, inferred - parsed)
            self.metrics.observe(names.POSTPROCESS, time.perf_counter() - inferred)
            self.metrics.observe(names.BATCH_SIZE, count)
        return replies

    def _parsed(self, row: Any, headers: Mapping[str, Any]) -> _Job:
        try:
            if headers.get("describe") == "True":
                return _Job(value=self.describe_handle())
            limit = int(self.card.input.get("max_bytes", DEFAULT_MAX_BYTES))
            request = read_request(row, headers, self.parameters, limit)
            return _Job(request=request, items=self.parse(request))
        except Exception as error:
            return _Job(error=_explained(error))

    def _infer_jobs(self, jobs: list[_Job]) -> int:
        """Fill in results or errors; the number of items that went to the model."""
        waiting = [(job, item) for job in jobs for item in job.items or []]
        outcomes: list[Any] = []
        for start in range(0, len(waiting), self.batch_limit):
            part = [item for _, item in waiting[start : start + self.batch_limit]]
            outcomes.extend(self._infer_isolated(part))
        for job in jobs:
            if job.items is not None:
                job.results = []
        for (job, _), outcome in zip(waiting, outcomes, strict=True):
            if isinstance(outcome, RequestError):
                job.error = job.error or outcome
            elif job.results is not None:
                job.results.append(outcome)
        return len(waiting)

    def _infer_isolated(self, items: list[Any]) -> list[Any]:
        """One result or RequestError per item: a batch that fails is retried one by one."""
        try:
            results = self.infer(items)
            if len(results) != len(items):
                raise RuntimeError(f"infer gave {len(results)} results for {len(items)} items")
            return results
        except Exception as error:
            if len(items) == 1:
                return [_explained(error)]
            logger.warning("a batch of %d failed, retrying one by one: %s", len(items), error)
        return [outcome for item in items for outcome in self._infer_isolated([item])]

    def _rendered(self, job: _Job) -> Reply:
        if job.error is None:
            try:
                value = job.value
                if job.request is not None:
                    value = self.render(job.request, job.results or [])
                return Reply(200, json.dumps(value, allow_nan=False).encode("ascii"))
            except Exception as error:
                job.error = _explained(error)
        self.metrics.error(job.error.status, job.error.type)
        return Reply(job.error.status, job.error.body())


def _explained(error: Exception) -> RequestError:
    """The error as the client will see it; what is our fault goes to the log in full."""
    known = as_request_error(error)
    if known is not error:
        logger.error("a request failed with %d %s", known.status, known.type, exc_info=error)
    return known


def _headers(context: Any, index: int) -> Mapping[str, Any]:
    try:
        headers = context.get_all_request_header(index)
    except Exception:  # a caller without headers, or with fewer than requests
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
