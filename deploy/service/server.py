"""Run WSGI applications under waitress, and stop without dropping a request.

What asks for health has threads of its own; what asks for work is counted, and refused before it
gets a thread once all are taken. A client has a time to send its request in.
"""

import json
import logging
import re
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error, InternalServerError, RequestEntityTooLarge

from deploy.errors import NoServer
from deploy.service.app import MAX_BODY
from deploy.service.failure import bad_request, busy, internal, too_large
from deploy.torchserve import ports

logger = logging.getLogger(__name__)

# As TorchServe's Netty: 4 KiB of request line and 8 KiB of headers.
MAX_HEADERS = 12_288
DRAIN_TIMEOUT = 30.0
HEAD_SECONDS = 20.0  # from the first byte, or the connection, to the end of the headers
BODY_SECONDS = 60.0  # from the first byte to the end of the body
CONNECTIONS = 1000
_TICK = 0.1
_LIGHT = re.compile(r"/(ping|metrics|v2|v2/health/(live|ready)|v2/models/.+/ready)/?")
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Server:
    """One application on one loopback address; `run` serves until `stop` is called."""

    def __init__(self, application: Any, host: str, port: int, threads: int) -> None:
        """Listen; `threads` requests at a time may ask for work. Raises NoServer."""
        _raise_file_limit()
        try:
            self._server = waitress.create_server(
                application,
                host=host,
                port=port,
                threads=threads,
                max_request_body_size=MAX_BODY,
                max_request_header_size=MAX_HEADERS,
                connection_limit=CONNECTIONS,
                channel_timeout=120,
                # Goes on reading while a request is answered, so that a hang-up is noticed.
                channel_request_lookahead=1,
                ident=None,
                expose_tracebacks=False,
            )
        except OSError as error:
            taken = f": {ports.owner(port)} has it" if not ports.is_free(port, host) else ""
            raise NoServer(
                f"cannot listen at {host}:{port}{taken} ({error.strerror}); choose --port"
            ) from error
        self._server.channel_class = _Channel
        self._server.add_task = self._admit
        self._light = ThreadedTaskDispatcher()
        self._light.set_thread_count(2)
        self._most = threads
        self._admitted = 0
        self._count = threading.Lock()
        self._swept = time.monotonic()
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
        for dispatcher in (self._server.task_dispatcher, self._light):
            dispatcher.shutdown(cancel_pending=True, timeout=1)
        if finished:
            self._server.trigger.close()
        return finished

    def _admit(self, channel: "_Channel") -> None:
        """Give a channel's next request a thread, or refuse it."""
        request = channel.requests[0]
        if request.error is None and not _LIGHT.fullmatch(request.path):
            with self._count:
                admitted = self._admitted < self._most
                self._admitted += admitted
            if admitted:
                self._server.task_dispatcher.add_task(_Work(channel, self._release))
                return
            request.error = _Busy("")
        self._light.add_task(channel)

    def _release(self) -> None:
        with self._count:
            self._admitted -= 1

    def _sweep(self) -> None:
        """Close connections that take too long to send a request, and make room for others."""
        now = time.monotonic()
        if now - self._swept < 1 and len(self._server._map) < CONNECTIONS:
            return
        self._swept = now
        channels = self._server.active_channels.values()
        waiting = [c for c in channels if not c.requests and not c.total_outbufs_len]
        late = [c for c in waiting if c.is_late(now)]
        if len(self._server._map) - len(late) >= CONNECTIONS:
            late = sorted(waiting, key=lambda c: c.since or c.idle_since)[: CONNECTIONS // 20]
        for channel in late:
            channel.turn_away()

    def _turn_until(self, done: Callable[[], bool]) -> None:
        while not done():
            wasyncore.loop(timeout=_TICK, use_poll=True, map=self._server._map, count=1)
            self._sweep()

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


def _raise_file_limit() -> None:
    """Each connection is an open file; shells often allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 4 * CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Busy(Error):  # type: ignore[misc]
    """All threads are taken."""

    code, reason = 503, "Service Unavailable"


class _Work:
    """A channel's next request, counted until it is answered."""

    def __init__(self, channel: "_Channel", release: Callable[[], None]) -> None:
        self._channel = channel
        self._release = release

    def service(self) -> None:
        try:
            self._channel.service()
        finally:
            self._release()

    def cancel(self) -> None:
        self._release()
        self._channel.cancel()


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
        elif isinstance(error, _Busy):
            failure = busy()
        else:
            failure = bad_request("Invalid HTTP message.")
        body = failure.body()
        if str(getattr(self.request, "path", "")).startswith(("/v1/", "/v2")):
            body = json.dumps({"error": failure.message}).encode()
        if failure.retry_after is not None:
            self.response_headers.append(("Retry-After", str(failure.retry_after)))
        self.status = f"{failure.status} {HTTPStatus(failure.status).phrase}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection.

    `since`: when the request began that it is sending, in time.monotonic's seconds, None between
    two requests; a new connection is expected to send one.
    """

    task_class = _Task
    error_task_class = _Refusal

    def __init__(self, *args: Any, **options: Any) -> None:
        self.since: float | None = time.monotonic()
        self.idle_since = self.since
        super().__init__(*args, **options)

    def received(self, data: bytes) -> Any:
        if self.since is None:
            self.since = time.monotonic()
        result = super().received(data)
        if self.request is None:
            self.since, self.idle_since = None, time.monotonic()
        return result

    def is_late(self, now: float) -> bool:
        """Whether its request should have come by now."""
        if self.since is None:
            return False
        in_body = self.request is not None and self.request.headers_finished
        return now - self.since > (BODY_SECONDS if in_body else HEAD_SECONDS)

    def turn_away(self) -> None:
        """Tell the client that it is too late, if it listens, and hang up."""
        if self.since is not None and not self.total_outbufs_len:
            with suppress(OSError):
                self.socket.send(_TOO_LATE)
        self.will_close = True
