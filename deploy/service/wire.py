"""What a worker process and the service say to each other, over a pair of connected sockets.

A batch goes to the worker as one pickle. What comes back is JSON and raw bytes alone: a worker runs
an archive's code, and the service unpickles nothing that it made. Both are framed by lengths:

    to the worker       length of the pickle, 8 bytes; the pickle
    from the worker     lengths of the head and of all after it, 4 and 8 bytes; the head; the rest
"""

import json
import pickle
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.service.row import Row

_TO_WORKER = struct.Struct("<Q")
_FROM_WORKER = struct.Struct("<IQ")


@dataclass(frozen=True)
class Batch:
    """What a worker is asked: rows, their headers, and which of their clients take partial
    answers. An empty one asks for a sign of life."""

    rows: Sequence[Row] = ()
    headers: Sequence[Mapping[str, Any]] = ()
    streams: Sequence[bool] = ()


def batch_frame(batch: Batch) -> list[bytes]:
    """A batch in bytes, to be sent one after another."""
    data = pickle.dumps((batch.rows, batch.headers, batch.streams), protocol=5)
    return [_TO_WORKER.pack(len(data)), data]


def message_frame(head: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
    """A worker's message in bytes; `head` must be JSON."""
    text = json.dumps({**head, "sizes": [len(blob) for blob in blobs]}).encode("ascii")
    rest = b"".join(blobs)
    return _FROM_WORKER.pack(len(text), len(rest)) + text + rest


def receive_batch(wire: socket.socket) -> Batch | None:
    """The next batch, waited for; None once the service has gone."""
    head = _exactly(wire, _TO_WORKER.size)
    if head is None:
        return None
    data = _exactly(wire, _TO_WORKER.unpack(head)[0])
    return None if data is None else Batch(*pickle.loads(data))


def _exactly(wire: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        count = wire.recv_into(view[at:])
        if not count:
            return None
        at += count
    return data


class Messages:
    """Cuts what arrives from a worker into messages."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[tuple[dict[str, Any], list[bytes]]]:
        """The messages that these bytes complete: head and blobs. Raises ValueError."""
        self._data += data
        found = []
        while len(self._data) >= _FROM_WORKER.size:
            length, rest = _FROM_WORKER.unpack_from(self._data)
            at = _FROM_WORKER.size
            if len(self._data) < at + length + rest:
                break
            head = json.loads(self._data[at : at + length])
            at += length
            blobs = []
            for size in head["sizes"]:
                blobs.append(bytes(self._data[at : at + size]))
                at += size
            del self._data[:at]
            found.append((head, blobs))
        return found
