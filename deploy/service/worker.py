"""A handler in this process: what a TorchServe worker is in its own.

Not a thread yet: `Worker` loads and calls, `pool` runs it in a thread, `once` in the main one.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

from deploy.errors import BadInput
from deploy.service import namespace
from deploy.service.bundle import Bundle, content
from deploy.service.failure import internal
from deploy.service.metrics import HandlerMetrics, Metrics
from deploy.service.quantized_engine import TURNS
from deploy.service.row import Row

logger = logging.getLogger(__name__)


@dataclass
class Answer:
    """One request's answer as the handler gave it, or a partial one."""

    status: int
    body: bytes
    content_type: str = "application/json"
    partial: bool = False


Send = Callable[[Answer], None]
"""Sends a partial answer to its client."""


class Worker:
    """One handler of one archive, initialised; used by one thread at a time."""

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        """Import the handler and load its model. Raises BadInput with the handler's reason."""
        self._quantized_engine = _quantized_engine(bundle)
        folder = content(bundle)
        try:
            module, self._space = namespace.load(folder, bundle.entry)
        except Exception as error:
            raise BadInput(f"{bundle.url}: {bundle.entry} does not import: {error}") from error
        properties = {
            "model_dir": str(folder),
            "gpu_id": None,
            "batch_size": bundle.settings.batch_size,
            "server_name": "marpress",
            "limit_max_image_pixels": True,
        }
        context = SimpleNamespace(
            model_name=bundle.name, manifest={}, system_properties=properties, metrics=None
        )
        try:
            self.handler = _handler_class(module, bundle)()
            with TURNS.turn(self._quantized_engine):
                self.handler.initialize(context)
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(f"{bundle.url} does not load: {error}") from error
        self.handler.metrics = HandlerMetrics(metrics, bundle.name, bundle.version)

    def answer(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]:
        """Answer a batch through the handler's `handle`, as TorchServe calls it; never raises.

        `senders` send partial answers, None for a request whose client takes none.
        """
        context = _Context(headers, senders)
        try:
            with TURNS.turn(self._quantized_engine):
                bodies = self.handler.handle(list(rows), context)
            if len(bodies) != len(rows):
                raise RuntimeError(f"{len(bodies)} answers for {len(rows)} requests")
        except Exception:
            logger.exception("the handler failed on a batch of %d", len(rows))
            body = internal(503, "Prediction failed").body()
            return [Answer(503, body) for _ in rows]
        return [
            Answer(reply.status, bytes(body), reply.content_type)
            for reply, body in zip(context.replies, bodies, strict=True)
        ]

    def close(self) -> None:
        """Unload the handler's modules."""
        namespace.forget(self._space)


@dataclass
class _Reply:
    status: int = 200
    content_type: str = "application/json"


@dataclass
class _Context:
    """The part of TorchServe's context that a handler uses during a batch."""

    headers: Sequence[Mapping[str, Any]]
    senders: Sequence[Send | None]
    replies: list[_Reply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replies = [_Reply() for _ in self.headers]

    def get_all_request_header(self, idx: int) -> Mapping[str, Any]:
        return self.headers[idx]

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.replies[idx].content_type = value

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.replies[idx].status = code

    def response_writer(self, idx: int) -> Callable[[bytes], None] | None:
        """For handlers/streaming.py: a function that sends the bytes of a partial answer."""
        send = self.senders[idx]
        if send is None:
            return None

        def write(data: bytes) -> None:
            reply = self.replies[idx]
            send(Answer(reply.status, data, reply.content_type, partial=True))

        return write


def _quantized_engine(bundle: Bundle) -> str | None:
    model = bundle.card.get("model")
    engine = model.get("quantized_engine") if isinstance(model, dict) else None
    return engine if isinstance(engine, str) else None


def _handler_class(module: ModuleType, bundle: Bundle) -> Any:
    """The one class that the entry module defines, as TorchServe chooses it."""
    classes = [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if value.__module__ == module.__name__
    ]
    if len(classes) != 1 or not hasattr(classes[0], "handle"):
        raise BadInput(f"{bundle.url}: {bundle.entry} must define one class with `handle`")
    return classes[0]
