"""Run WSGI applications under waitress, and stop without dropping a request."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import InternalServerError, RequestEntityTooLarge

from deploy.errors import NoServer
from deploy.service.app import MAX_BODY
from deploy.service.failure import bad_request, internal, too_large
from deploy.torchserve import ports

logger = logging.getLogger(__name__)

# As TorchServe's Netty: 4 KiB of request line and 8 KiB of headers.
MAX_HEADERS = 12_288
DRAIN_TIMEOUT = 30.0
_TICK = 0.1


class Server:
    """One application on one loopback address; `run` serves until `stop` is called."""

    def __init__(self, application: Any, host: str, port: int, threads: int) -> None:
        """Listen. Raises NoServer, naming who has the port."""
        try:
            self._server = waitress.create_server(
                application,
                host=host,
                port=port,
                threads=threads,
                max_request_body_size=MAX_BODY,
                max_request_header_size=MAX_HEADERS,
                connection_limit=1000,
                channel_timeout=120,
                ident=None,
                expose_tracebacks=False,
            )
        except OSError as error:
            taken = f": {ports.owner(port)} has it" if not ports.is_free(port, host) else ""
            raise NoServer(
                f"cannot listen at {host}:{port}{taken} ({error.strerror}); choose --port"
            ) from error
        self._server.channel_class = _Channel
        self.draining = threading.Event()
        self._server.draining = self.draining
        self.address = f"http://{host}:{self._server.effective_port}"

    def stop(self) -> None:
        """Have `run` stop listening, answer open requests and return; safe in a signal handler."""
        self.draining.set()

    def run(self) -> bool:
        """Serve until `stop`; whether every request in flight was answered before the end."""
        self._turn_until(self.draining.is_set)
        wasyncore.dispatcher.close(self._server)  # the listening socket only
        # Requests that had arrived by then, but were not read yet, are in flight too.
        wasyncore.loop(timeout=_TICK, use_poll=True, map=self._server._map, count=3)
        deadline = time.monotonic() + DRAIN_TIMEOUT
        self._turn_until(lambda: not self._busy() or time.monotonic() > deadline)
        finished = not self._busy()
        for channel in list(self._server.active_channels.values()):
            channel.close()
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        return finished

    def _turn_until(self, done: Callable[[], bool]) -> None:
        while not done():
            wasyncore.loop(timeout=_TICK, use_poll=True, map=self._server._map, count=1)

    def _busy(self) -> bool:
        """Whether a request is being received or answered, or an answer is being sent."""
        return any(
            channel.requests or channel.request is not None or channel.total_outbufs_len
            for channel in self._server.active_channels.values()
        )


def stop_on_signals(*servers: Server) -> None:
    """Stop at SIGTERM and SIGINT; a second signal has its usual effect."""

    def stop(number: int, frame: Any) -> None:
        for server in servers:
            server.stop()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


class _Task(WSGITask):  # type: ignore[misc]
    """Asks clients to disconnect once the server stops; an application must not (PEP 3333)."""

    def build_response_header(self) -> bytes:
        if self.channel.server.draining.is_set():
            self.set_close_on_finish()
        return bytes(super().build_response_header())


class _Refusal(ErrorTask):  # type: ignore[misc]
    """Refuses requests that never reach the application, in the same form as it does."""

    def execute(self) -> None:
        error = self.request.error
        if isinstance(error, RequestEntityTooLarge):
            failure = too_large(MAX_BODY)
        elif isinstance(error, InternalServerError):
            failure = internal(500, "the service failed: see its log")
        else:
            failure = bad_request("Invalid HTTP message.")
        body = failure.body()
        self.status = f"{failure.status} {HTTPStatus(failure.status).phrase}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    task_class = _Task
    error_task_class = _Refusal
