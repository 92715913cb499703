"""A worker process as the service sees it: started, asked, told to end, killed."""

import asyncio
import atexit
import logging
import multiprocessing
import signal
import socket
import weakref
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

from deploy.service import wire
from deploy.service.bundle import Bundle
from deploy.service.worker import OUT_OF_MEMORY, serve
from handlers import sockets

logger = logging.getLogger(__name__)

_BUFFER = 4 << 20
_END_TIMEOUT = 2.0  # seconds for a worker to end by itself
_LAST_WORDS = 0.2  # seconds to read what a process sent before its end
_context = multiprocessing.get_context("forkserver")
_alive: "weakref.WeakSet[Process]" = weakref.WeakSet()

Told = Callable[[dict[str, Any], list[bytes]], None]
"""Called with the head and the blobs of a worker's message."""

Ended = Callable[[], None]
"""Called once, when the worker has ended, or closed its connection."""


def prepare() -> None:
    """Start the process that workers are forked from. Call it in the main thread: the kernel kills
    that process, and its workers with it, when the thread that started it ends."""
    sockets.shorten()
    _context.set_forkserver_preload(["deploy.service.preload"])
    forkserver.ensure_running()


class Process(asyncio.Protocol):
    """One worker process; `told` hears its messages, `ended` once that it has gone."""

    def __init__(
        self,
        bundle: Bundle,
        memory_limit: int | None,
        told: Told,
        ended: Ended,
    ) -> None:
        self._bundle = bundle
        self._memory_limit = memory_limit
        self._told = told
        self._ended = ended
        self._messages = wire.Messages()
        self._transport: Any = None
        self._process: Any = None
        self._killed = False

    @property
    def pid(self) -> int | None:
        """Of the process, once it has started."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Fork the process; it loads its handler and says so."""
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        ours.setblocking(False)
        # No daemon: those may have no children of their own, and handlers may load data with some.
        self._process = _context.Process(
            target=serve, args=(theirs, self._bundle, self._memory_limit), daemon=False
        )
        _alive.add(self)
        try:
            await asyncio.to_thread(self._process.start)
        finally:
            theirs.close()
        if self._killed:
            self.kill()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, sock=ours)
        loop.add_reader(self._process.sentinel, self._exited)

    def send(self, batch: wire.Batch) -> None:
        """Give the worker a batch."""
        self._transport.writelines(wire.batch_frame(batch))

    def end(self) -> None:
        """Let the worker end by itself, which it does between two batches."""
        if self._transport is not None:
            self._transport.close()
        else:
            self.kill()

    def kill(self) -> None:
        """End the worker at once, whatever it does."""
        self._killed = True
        if self._process is not None and self._process.pid is not None:
            self._process.kill()

    async def gone(self) -> None:
        """Wait for the process's end, and see to it."""
        if self.pid is None:
            return
        await asyncio.to_thread(self._process.join, _END_TIMEOUT)
        if self._process.exitcode is None:
            self.kill()
            await asyncio.to_thread(self._process.join)
        _alive.discard(self)

    def how(self) -> str:
        """How it ended, in words."""
        code = None if self._process is None else self._process.exitcode
        if code is None:
            return "closed its connection"
        if code == OUT_OF_MEMORY:
            return "ran out of memory"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"exited with {code}"

    def _exited(self) -> None:
        """The process has gone; what it forked may hold its end of the connection open."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        loop.call_later(_LAST_WORDS, self._transport.abort)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for head, blobs in self._messages.feed(data):
                self._told(head, blobs)
        except (ValueError, LookupError, TypeError):
            logger.exception("process %s does not speak as a worker does: it is ended", self.pid)
            self.kill()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended()


@atexit.register
def _kill_all() -> None:
    for process in list(_alive):
        process.kill()
