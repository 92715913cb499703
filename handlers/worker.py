"""What TorchServe's own worker process needs told: its log level, and how to read its socket.

Both functions do nothing in any other process, so that a handler can live in a
test or in a web service without rearranging it.
"""

import inspect
import logging
import sys
from socket import socket

_BUFFER_BYTES = 262_144


def in_torchserve_worker() -> bool:
    """Whether this process is TorchServe's model_service_worker.py."""
    main = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    return main.replace("\\", "/").endswith("ts/model_service_worker.py")


def quiet_logs() -> None:
    """Log warnings and errors only, and TorchServe's metrics.

    The worker logs a line per request that the server then parses and files away.
    Metrics travel the same road, as INFO lines of one logger, and must keep flowing.
    """
    if in_torchserve_worker():
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)


def buffer_socket_reads() -> bool:
    """Let the worker read its socket through one buffer; False where that does not apply.

    TorchServe 0.12 asks the kernel for every length, name and header by itself:
    some thirty system calls per request. Its reading all goes through one module
    function, looked up at each call, which this replaces. To be called while the
    worker loads its model: the server sends nothing more until that is answered.
    """
    if not in_torchserve_worker():
        return False
    try:
        from ts.protocol import otf_message_handler as protocol

        expected = list(inspect.signature(protocol._retrieve_buffer).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return False
    if expected != ["conn", "length"]:
        return False
    protocol._retrieve_buffer = SocketReader().read
    return True


class SocketReader:
    """Exact-length reads from a stream socket through one buffer."""

    def __init__(self, size: int = _BUFFER_BYTES) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._conn: socket | None = None

    def read(self, conn: socket, length: int) -> bytearray:
        """The next `length` bytes; ends the process when the other side is gone."""
        if conn is not self._conn:
            self._conn, self._start, self._end = conn, 0, 0
        stop = self._start + length
        if stop <= self._end:
            taken = self._buffer[self._start : stop]
            self._start = stop
            return taken
        taken = bytearray(length)
        target = memoryview(taken)
        filled = self._end - self._start
        target[:filled] = self._view[self._start : self._end]
        self._start = self._end = 0
        while length - filled >= len(self._buffer):
            filled += _receive(conn, target[filled:])
        while filled < length:
            self._end = _receive(conn, self._view)
            self._start = min(self._end, length - filled)
            target[filled : filled + self._start] = self._view[: self._start]
            filled += self._start
        return taken


def _receive(conn: socket, target: memoryview) -> int:
    count = conn.recv_into(target)
    if count == 0:
        sys.exit(0)  # the server is gone, as TorchServe's own reader has it
    return count
