"""Run applications under uvicorn, and stop without dropping a request.

uvicorn speaks HTTP; this adds what it leaves open: a client has a time to send its request in,
a request's head has a size, and there is room for a number of connections, of which the oldest
without a request go first.
"""

import asyncio
import contextlib
import ctypes
import resource
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deploy.errors import NoServer
from deploy.service.app import App
from deploy.service.asgi import Asgi
from deploy.service.failure import Failure, bad_request
from deploy.torchserve import ports

# As TorchServe's Netty: 4 KiB of request line and 8 KiB of headers.
MAX_HEADERS = 12_288
DRAIN_TIMEOUT = 30
KEEP_ALIVE = 120
HEAD_SECONDS = 20.0  # from the first byte, or the connection, to the end of the headers
BODY_SECONDS = 60.0  # from the first byte to the end of the body
CONNECTIONS = 1000
_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_JOINED = 65_536  # bytes of a body that is copied behind its head
_TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


# Bytes of a body that wait for the application: what one read brings, not a part of a picture.
httptools_impl.__dict__["HIGH_WATER_LIMIT"] = 262_144


class Server(uvicorn.Server):
    """One application on one address; `serve` answers until `stop` is called."""

    def __init__(self, app: App, host: str, port: int) -> None:
        """Listen. Raises NoServer."""
        _raise_file_limit()
        _give_large_blocks_back()
        try:
            self.socket = _listening(host, port)
        except OSError as error:
            taken = f": {ports.owner(port)} has it" if not ports.is_free(port, host) else ""
            raise NoServer(
                f"cannot listen at {host}:{port}{taken} ({error.strerror}); choose --port"
            ) from error
        name = f"[{host}]" if ":" in host else host
        self.address = f"http://{name}:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(
            Asgi(app),
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            backlog=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=DRAIN_TIMEOUT,
        )
        super().__init__(config)

    def stop(self) -> None:
        """Have `answer` stop listening, answer what was asked and return."""
        self.should_exit = True

    async def answer(self) -> bool:
        """Serve until `stop`; whether every request in flight was answered before the end."""
        await self.serve(sockets=[self.socket])
        return not self.server_state.tasks

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `stop_on_signals`: there are two servers."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            sweep(self.server_state.connections)
        return await super().on_tick(counter)


class Connection(HttpToolsProtocol):
    """A connection.

    `since`: when the request began that it is sending, in time.monotonic's seconds, None between
    two requests; a new connection is expected to send one.
    """

    def connection_made(self, transport: Any) -> None:
        self.since: float | None = time.monotonic()
        self.idle_since = self.since
        self.in_body = False
        self._head_size = 0
        joining: Any = _Joining(transport)
        super().connection_made(joining)
        self.app_state = {"gone": transport.is_closing}
        self.parser: Any = _Parser(self)
        if len(self.server_state.connections) > CONNECTIONS:
            make_room(self.server_state.connections)

    def data_received(self, data: bytes) -> None:
        if self.since is None:
            self.since = time.monotonic()
        if not self.in_body:
            self._head_size += len(data)
        super().data_received(data)
        if not self.in_body and self._head_size > MAX_HEADERS and not self.transport.is_closing():
            self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fields = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        """Hold the head to its size, however it is cut into pieces."""
        self._fields += size
        if self._fields > MAX_HEADERS:
            raise ValueError("too large a head")

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("no proxy")
            return  # `_Parser` brings it again
        self.in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        super().on_message_complete()
        self.in_body, self._head_size = False, 0
        self.since, self.idle_since = None, time.monotonic()

    def send_400_response(self, msg: str) -> None:
        """What never reaches the application is refused in the same form as there."""
        failure: Failure = bad_request("Invalid HTTP message.")
        body = failure.body()
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
        head += f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()

    @property
    def waiting(self) -> bool:
        """Whether no request of its is being answered."""
        return self.cycle is None or self.cycle.response_complete or self.since is not None

    def is_late(self, now: float) -> bool:
        """Whether its request should have come by now."""
        if self.since is None:
            return False
        return now - self.since > (BODY_SECONDS if self.in_body else HEAD_SECONDS)

    def turn_away(self) -> None:
        """Tell the client that it is too late, if it listens, and hang up."""
        if self.since is not None and not (self.cycle and self.cycle.response_started):
            self.transport.write(_TOO_LATE)
        self.transport.close()


class _Joining:
    """A transport that sends a reply's head together with what follows it, in one packet.

    uvicorn writes the head alone, which costs a system call here and a second wakening there.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it; a head at the end of this turn of the event loop, or with its body."""
        if self._head:
            if len(data) <= _JOINED:
                data, self._head = self._head + data, b""
            self._send_head()
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n"):
            self._head = data
            asyncio.get_running_loop().call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what is left, then close."""
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        head, self._head = self._head, b""
        if head:
            self._transport.write(head)


class _Parser:
    """httptools' parser for clients that offer another protocol, as Java's and curl's offer h2c.

    It would take a request's body for that protocol. The offer is declined, as HTTP has it: the
    head is parsed again without it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._renew()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Parse what came. Raises HttpParserError."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                data = self._declined() + bytes(data[offer.args[0] :])
                self._renew()

    def _declined(self) -> bytes:
        version = self._parser.get_http_version().encode()
        first = b"%b %b HTTP/%b" % (self._parser.get_method(), self._connection.url, version)
        fields = [b"%b: %b" % field for field in self._connection.headers if field[0] != b"upgrade"]
        return b"\r\n".join([first, *fields, b"", b""])

    def _renew(self) -> None:
        self._parser = httptools.HttpRequestParser(self._connection)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)


def sweep(connections: set[Any]) -> None:
    """Close connections that take too long to send a request."""
    now = time.monotonic()
    for connection in [c for c in connections if c.is_late(now)]:
        connection.turn_away()


def make_room(connections: set[Any]) -> None:
    """Close the oldest connections without a request, if there are too many."""
    open_ones = [c for c in connections if not c.transport.is_closing()]
    if len(open_ones) > CONNECTIONS:
        waiting = [c for c in open_ones if c.waiting]
        oldest = sorted(waiting, key=lambda c: c.since or c.idle_since)
        for connection in oldest[: CONNECTIONS // 20]:
            connection.turn_away()


def stop_on_signals(*servers: Server) -> None:
    """Stop at SIGTERM and SIGINT; a second signal has its usual effect. In the event loop."""
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        for server in servers:
            server.stop()
        loop.remove_signal_handler(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def _listening(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # asyncio turns Nagle's algorithm off where the socket says that it is TCP's.
    wire = socket.socket(family, kind, protocol)
    try:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wire.bind(address)
        wire.listen(CONNECTIONS)
        wire.setblocking(False)
    except OSError:
        wire.close()
        raise
    return wire


def _give_large_blocks_back() -> None:
    """Have the C library return what large bodies and answers took once they are gone.

    By itself it learns from the first to keep blocks of up to 32 MiB, in pieces: where forty
    clients took 20 MiB each at a time, every round of them took 600 MiB more.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _raise_file_limit() -> None:
    """Each connection is an open file; shells often allow 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 4 * CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
