"""A handler in this process: what a TorchServe worker is in its own.

Not a thread yet: `Worker` loads and calls, `pool` runs it in a thread, `once` in the main one.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.service import entry
from deploy.service.bundle import Bundle
from deploy.service.context import Answer, Context, Send
from deploy.service.failure import internal
from deploy.service.metrics import HandlerMetrics, Metrics
from deploy.service.quantized_engine import TURNS
from deploy.service.row import Row

__all__ = ["Answer", "Send", "Worker"]

logger = logging.getLogger(__name__)


class Worker:
    """One handler of one archive, initialised; used by one thread at a time."""

    def __init__(self, bundle: Bundle, metrics: Metrics) -> None:
        """Import the handler and load its model. Raises BadInput with the handler's reason."""
        self._quantized_engine = _quantized_engine(bundle)
        with TURNS.turn(self._quantized_engine):
            self._entry = entry.load(bundle, HandlerMetrics(metrics, bundle.name, bundle.version))

    def answer(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]:
        """Answer a batch through the handler's `handle`, as TorchServe calls it; never raises.

        `senders` send partial answers, None for a request whose client takes none.
        """
        context = Context(headers, senders)
        try:
            with TURNS.turn(self._quantized_engine):
                bodies = self._entry.handle(list(rows), context)
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
        self._entry.close()


def _quantized_engine(bundle: Bundle) -> str | None:
    model = bundle.card.get("model")
    engine = model.get("quantized_engine") if isinstance(model, dict) else None
    return engine if isinstance(engine, str) else None
