"""What TorchServe's worker reads from its socket, through one buffer.

The stock worker reads each field of a message by a system call of its own, thirty for a request,
and a picture in pieces that it joins: here a message arrives in one call, a large body in two, the
second straight into the memory that the handler gets. Messages are the same bytes in the same
order. Only for the TorchServe that this was read and measured in: with any other the worker reads
as it always did.
"""

import socket
import sys
from types import ModuleType
from typing import Any

TORCHSERVE = "0.12.0"
_BUFFER = 262_144


class Reader:
    """Reads one connection ahead, up to the size of a buffer."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0

    def read(self, length: int) -> bytearray | None:
        """The next `length` bytes; None where the connection ends before them."""
        there = self._end - self._start
        if there >= length:
            self._start += length
            return self._buffer[self._start - length : self._start]
        data = bytearray(length)
        data[:there] = self._view[self._start : self._end]
        self._start = self._end = 0
        if length >= _BUFFER // 4:
            return data if self._receive(memoryview(data), there, length) else None
        if not self._receive(self._view, 0, length - there):
            return None
        data[there:] = self._view[: length - there]
        self._start = length - there
        return data

    def _receive(self, into: memoryview, at: int, least: int) -> bool:
        """Fill `into` from `at` to `least` or further; false where the connection ends."""
        while at < least:
            count = self.connection.recv_into(into[at:])
            if not count:
                return False
            at += count
        if into is self._view:
            self._end = at
        return True


def install(connection: Any) -> bool:
    """Have TorchServe's worker read `connection` through a Reader from now on; whether it does."""
    messages = _messages()
    if messages is None or not isinstance(connection, socket.socket):
        return False
    reader, stock = Reader(connection), messages._retrieve_buffer

    def retrieve(source: Any, length: int) -> Any:
        if source is not connection:
            return stock(source, length)
        data = reader.read(length)
        # As the stock function: TorchServe has gone, and so does its worker.
        return sys.exit(0) if data is None else data

    messages.__dict__["_retrieve_buffer"] = retrieve
    return True


def _messages() -> ModuleType | None:
    """TorchServe's module that reads messages, if it is the known one."""
    import ts

    if ts.__version__ != TORCHSERVE:
        return None
    from ts.protocol import otf_message_handler

    return otf_message_handler if hasattr(otf_message_handler, "_retrieve_buffer") else None
