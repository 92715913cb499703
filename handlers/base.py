"""The life of a worker and of a batch, for every task.

A task's handler derives from BaseHandler and supplies `preprocess`, `inference`
and `postprocess`, named as in TorchServe's own BaseHandler, and `setup`:
TorchServe's `initialize` is the base's, and calls it. The base reads the card,
loads, warms up and times the model; `handlers.batch` answers each request of a
batch on its own: one that fails does not affect the others. Nothing here needs
TorchServe: `answer` serves any caller, `handle` is TorchServe's entry point to it.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from handlers import alone, budget, json_body, runtimes, seal, streaming
from handlers import metrics as names
from handlers.backend import Predict, keep_freed_memory, load_model, warm_up
from handlers.batch import Batch, Reply, explained
from handlers.budget import Budget
from handlers.card import Card, read_card, read_evidence
from handlers.errors import ModelError, reason
from handlers.memory import Keeper
from handlers.metrics import Metrics
from handlers.payload import MAX_INPUTS, Request, read_request
from handlers.streaming import Send
from handlers.worker import Retirement, settle, settled

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 10_485_760
DEFAULT_RESPONSE_TIMEOUT = 120  # seconds, TorchServe's own


class BaseHandler:
    """One model in one process; derive and fill in what a task supplies."""

    task = ""
    parameters: tuple[str, ...] = ()
    unit = "inputs"
    """What `cost` counts, in the plural; the card's limit is `input.max_request_UNIT`."""
    limits: tuple[str, ...] = ()
    """The card's limits of one input in that unit: where it says none, time decides."""
    max_json = json_body.MAX_WEIGHT
    """Most values in a JSON body, see `json_body.parse`: few where no numbers are taken."""

    card: Card
    folder: Path
    predict: Predict

    def __init__(self) -> None:
        self.initialized = False
        self.batch_limit = 1
        self.memory = Keeper()
        self.retirement = Retirement()
        self.evidence: dict[str, Any] = {}
        self.runtime = runtimes.Verdict("")
        self.metrics = Metrics(None, "")
        self.company = alone.Company()

    # What a task supplies.

    def setup(self) -> None:
        """Once, after the card and the model are loaded and before the warm-up."""

    def read(self, row: Any, headers: Mapping[str, Any], sender: Send | None) -> Request:
        """What one client asked, of an entry of TorchServe's batch; or RequestError."""
        return read_request(row, headers, self.parameters, self.max_bytes(), sender, self.max_json)

    def preprocess(self, request: Request) -> list[Any]:
        """One request to inputs, or RequestError; check parameters and headers here.

        Nothing is paid for yet: leave to `decode` what takes more memory or time than the bytes
        that were sent.
        """
        raise NotImplementedError

    def cost(self, value: Any) -> float:
        """What an input of `preprocess` will cost in `decode` and `inference`, in `unit`."""
        return 1.0

    def decode(self, value: Any) -> Any:
        """What `inference` takes of an input of `preprocess`, or RequestError."""
        return value

    def inference(self, inputs: list[Any]) -> list[Any]:
        """One result per decoded input; at most `batch_limit` inputs, of any mixture of requests.

        A result that is a RequestError refuses the request that the input came from. What a
        result needs from its request (`explain`, `send`) travels in the input.
        """
        raise NotImplementedError

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        """One request's results to its JSON answer, of plain Python values, or an `Encoded` one."""
        raise NotImplementedError

    # What describe needs, and the warm-up.

    def example(self) -> Any:
        """An input to warm up with, as `decode` makes them; None for no warm-up."""
        return None

    def request_limit(self) -> float:
        """The most units that one request may cost, where the card does not say."""
        return math.inf

    def trials(self) -> tuple[Any, Any] | None:
        """A cheap and a dear input, as `preprocess` makes them, to time; None for no timing."""
        return None

    def schemas(self) -> tuple[Any, Any]:
        """JSON Schemas of the request and of the answer."""
        return {}, {}

    # A worker's life.

    def initialize(self, context: Any) -> None:
        """Load and warm up the archive in context.system_properties["model_dir"].

        Raises ModelError (TorchServe reports it as a failed load).
        """
        settle()
        properties = context.system_properties
        self.folder = Path(properties["model_dir"]).resolve()
        _refuse_foreign_package(self.folder)
        seal.confirm(self.folder)
        self.card = read_card(self.folder)
        if self.task and self.card.task != self.task:
            raise ModelError(
                f"the card's task is {self.card.task!r}, this handler serves {self.task!r}"
            )
        self.evidence = read_evidence(self.folder)
        keep_freed_memory()
        served = int(properties.get("batch_size") or 1)
        with self.company:
            example = self._load(served)
        if example is not None and "server_name" in properties:
            self._use_idle_cores(example)
        self.budget = self._measured_budget()
        self.metrics = names.served(context, self.card.name)
        self.memory = Keeper()
        settled()
        self.initialized = True

    def _load(self, served: int) -> Any:
        """Load the model for batches of up to `served`, and warm it up with the example that
        it returns."""
        self.predict = load_model(self.folder, self.card)
        self.runtime = runtimes.Verdict(self.card.model["file"])
        sizes = sorted({*self.card.batch_sizes, *range(1, served + 1)})
        self.batch_limit = max(sizes)
        self.setup()
        example = self.example()
        if example is not None:
            warm_up(lambda size: self.inference([example] * size), sizes)
            if self.card.alternatives:
                self._take_fastest(example, sizes, sorted({1, served}))
        return example

    def _measured_budget(self) -> Budget:
        """The card's limits and what they take here; ModelError where they cannot be kept."""
        limit = self.card.number("input", f"max_request_{self.unit}", self.request_limit())
        timeout = self.card.number("serving", "response_timeout_s", DEFAULT_RESPONSE_TIMEOUT)
        trials = self.trials()
        if trials is None:
            return Budget(self.unit, limit, timeout)
        light, heavy = ((self.cost(value), value) for value in trials)
        try:
            pace = budget.measured(lambda value: self.inference([self.decode(value)]), light, heavy)
        except Exception as error:  # the model may refuse what nobody would send
            logger.warning("limits are not timed, the model fails on a made-up input: %s", error)
            return Budget(self.unit, limit, timeout)
        made = Budget(self.unit, limit, timeout, pace)
        if self.card.input.keys().isdisjoint({f"max_request_{self.unit}", *self.limits}):
            made = made.fitted(MAX_INPUTS)
        made.check(MAX_INPUTS, int(self.card.serving.get("batch_size", 1)))
        return made

    def _take_fastest(self, example: Any, sizes: list[int], timed: list[int]) -> None:
        """Serve from another runtime's file if it is measured to be faster here."""
        own = self.predict
        loads = [self._calls([example] * size) for size in timed]
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

    def _use_idle_cores(self, example: Any) -> None:
        """Have a server's lone requests computed with more threads if that is faster here."""
        calls = self._calls([example])
        card = runtimes.with_file(self.card, self.runtime.file)
        if len(calls) == 1:
            self.predict = alone.widened(self.folder, card, self.predict, calls[0], self.company)

    def _calls(self, inputs: list[Any]) -> list[tuple[Any, ...]]:
        """What the model is called with for these inputs."""
        own, calls = self.predict, list[tuple[Any, ...]]()
        self.predict = runtimes.recorded(own, calls)
        try:
            self.inference(inputs)
        finally:
            self.predict = own
        return calls

    def describe_handle(self) -> dict[str, Any]:
        """The model's name, runtime, labels, schemas and evidence: `describe?customized=true`."""
        request, response = self.schemas()
        return {
            "name": self.card.name,
            "task": self.card.task,
            "engine": asdict(self.runtime),
            "labels": self.card.labels,
            "input": request,
            "output": response,
            **self.evidence,
        }

    # A batch's life.

    def handle(self, data: Any, context: Any) -> list[bytes]:
        """TorchServe's entry point: a batch of requests to encoded JSON, never raising."""
        connection = getattr(context, "cl_socket", None)
        self.retirement.begin(connection)
        with self.company:
            bodies = self._handled(data, context)
        self.retirement.end(self.memory.worn, connection)
        return bodies

    def _handled(self, data: Any, context: Any) -> list[bytes]:
        rows = list(data or [])
        headers = [_headers(context, index) for index in range(len(rows))]
        try:
            senders = [streaming.sender(context, index) for index in range(len(rows))]
            replies = self.answer(rows, headers, senders)
        except Exception as error:  # memory can run out anywhere
            failure = explained(error)
            replies = [Reply(failure.status, failure.body())] * len(rows)
        for index, reply in enumerate(replies):
            context.set_response_content_type(index, reply.content_type)
            for name, value in reply.headers.items():
                context.set_response_header(index, name, value)
            context.set_response_status(code=reply.status, phrase=reason(reply.status), idx=index)
            if reply.status == 503 and hasattr(context, "set_response_header"):
                context.set_response_header(index, "Retry-After", "1")
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
        replies = Batch(self).answer(rows, headers, senders or [None] * len(rows))
        self.memory.tidy()
        return replies

    def max_bytes(self) -> int:
        """The most bytes of one input, as sent."""
        return int(self.card.input.get("max_bytes", DEFAULT_MAX_BYTES))


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
