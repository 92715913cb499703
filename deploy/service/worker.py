"""A worker: a handler in a process of its own, as in TorchServe, and the loop that it runs.

`Worker` loads and calls; `serve` is the whole life of the process; `once` and `debug` use a
`Worker` in their own.
"""

import ctypes
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from deploy.errors import BadInput
from deploy.service import entry, wire
from deploy.service.bundle import Bundle
from deploy.service.context import Answer, Context, Send
from deploy.service.failure import internal
from deploy.service.row import Row

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = 77  # exit code
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Worker:
    """One handler of one archive, initialised; used by one thread at a time."""

    def __init__(self, bundle: Bundle, metrics: entry.Metrics) -> None:
        """Import the handler and load its model. Raises BadInput with the handler's reason."""
        self._entry = entry.load(bundle, metrics)

    def answer(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]:
        """Answer a batch through the handler's `handle`, as TorchServe calls it.

        `senders` send partial answers, None for a request whose client takes none. When the
        handler fails on several requests together, each is tried alone, unless one of them has been
        answered in part. Raises MemoryError, and what is no Exception.
        """
        sent: list[int] = []
        try:
            return self._answered(rows, headers, [_noted(send, sent) for send in senders])
        except MemoryError:
            raise
        except Exception:
            logger.exception("the handler failed on a batch of %d", len(rows))
            if len(rows) > 1 and not sent:
                alone = zip(rows, headers, senders, strict=True)
                return [self.answer([row], [head], [send])[0] for row, head, send in alone]
            body = internal(503, "Prediction failed").body()
            return [Answer(503, body) for _ in rows]

    def close(self) -> None:
        """Unload the handler's modules."""
        self._entry.close()

    def _answered(
        self,
        rows: Sequence[Row],
        headers: Sequence[Mapping[str, Any]],
        senders: Sequence[Send | None],
    ) -> list[Answer]:
        context = Context(headers, senders)
        bodies = self._entry.handle(rows, context)
        if len(bodies) != len(rows):
            raise RuntimeError(f"{len(bodies)} answers for {len(rows)} requests")
        return [
            Answer(reply.status, bytes(body), reply.content_type, headers=reply.headers)
            for reply, body in zip(context.replies, bodies, strict=True)
        ]


class Records:
    """What a handler's metrics recorded since the last message: `handlers.metrics`' methods."""

    def __init__(self) -> None:
        self._taken: list[list[Any]] = []

    def observe(self, name: str, value: float) -> None:
        """Record one value of a histogram."""
        self._taken.append(["observe", name, float(value)])

    def error(self, status: int, type: str) -> None:
        """Count one failed request."""
        self._taken.append(["error", int(status), str(type)])

    def record(self, kind: str, name: str, value: float, labels: Mapping[str, str]) -> None:
        """One value of an adopted handler's own counter, gauge or histogram."""
        self._taken.append(["record", str(kind), str(name), float(value), dict(labels)])

    def take(self) -> list[list[Any]]:
        """What was recorded; it is forgotten here."""
        taken, self._taken = self._taken, []
        return taken


def serve(connection: socket.socket, bundle: Bundle, memory_limit: int | None = None) -> None:
    """Load the handler and answer batches until the service closes the connection.

    `memory_limit`: bytes of data that this process may allocate. It dies with its parent.
    """
    _settle(memory_limit)
    _make_forks_no_workers(connection)
    records = Records()
    try:
        worker = Worker(bundle, records)
    except BaseException as error:
        _log_unexpected(error)
        connection.sendall(wire.message_frame({"kind": "failed", "reason": _reason(error)}))
        return
    connection.sendall(wire.message_frame({"kind": "ready"}))
    while (batch := wire.receive_batch(connection)) is not None:
        if not batch.rows:
            connection.sendall(wire.message_frame({"kind": "alive"}))
            continue
        senders = [
            _sender(connection, at) if streams else None for at, streams in enumerate(batch.streams)
        ]
        try:
            answers = worker.answer(batch.rows, batch.headers, senders)
        except MemoryError:
            # What is left of such a process nobody knows.
            logger.exception("out of memory on a batch of %d", len(batch.rows))
            os._exit(OUT_OF_MEMORY)
        head = {
            "kind": "answers",
            "answers": [[a.status, a.content_type, a.headers] for a in answers],
            "metrics": records.take(),
        }
        connection.sendall(wire.message_frame(head, [answer.body for answer in answers]))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (Linux)."""
    with suppress(OSError, AttributeError):
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def _settle(memory_limit: int | None) -> None:
    die_with_parent()
    # The service ends its workers; a signal to the whole group is not for them. What a handler
    # starts would inherit SIG_IGN, and then not end when it is told to.
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: None)
        signal.siginterrupt(number, False)
    with suppress(OSError):  # when memory is short, the kernel takes a worker, not the service
        Path("/proc/self/oom_score_adj").write_text("500")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit, memory_limit))


def _make_forks_no_workers(connection: socket.socket) -> None:
    """Have processes that a handler forks answer no request, and end when they are told to."""

    def hold() -> None:  # a signal must not come before the child has its usual effect
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def settle() -> None:
        connection.close()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=settle)


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _log_unexpected(error: BaseException) -> None:
    if not isinstance(error, BadInput):
        logger.error("the worker does not start", exc_info=error)
        sys.stderr.flush()


def _sender(connection: socket.socket, at: int) -> Send:
    def send(partial: Answer) -> None:
        head = {"kind": "partial", "at": at, "status": partial.status, "type": partial.content_type}
        connection.sendall(wire.message_frame(head, [partial.body]))

    return send


def _noted(send: Send | None, sent: list[int]) -> Callable[[Answer], None] | None:
    if send is None:
        return None

    def noted(partial: Answer) -> None:
        sent.append(1)
        send(partial)

    return noted
