import random
import socket
import threading
from types import SimpleNamespace

import pytest
import ts
from ts.protocol import otf_message_handler as messages

from handlers import wire
from tests.unit.handlers.archive import Sent, _frames


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def stock(monkeypatch):
    """The stock function, put back after the test."""
    function = messages._retrieve_buffer
    monkeypatch.setattr(messages, "_retrieve_buffer", function)
    return function


def sent(size: int) -> Sent:
    body = random.Random(size).randbytes(size)
    return Sent([("body", "image/png", body)], {"X-Top-K": "3"})


@pytest.mark.parametrize("size", [0, 1, 70_000, wire._BUFFER - 60, wire._BUFFER, 3_000_000])
@pytest.mark.parametrize("piece", [1 << 20, 9_973])
def test_messages_are_those_of_the_stock_reader(sockets, stock, size, piece):
    ours, theirs = sockets
    batches = [(sent(size),), (sent(size), sent(5), sent(size + 3)), (sent(2),)]
    data = b"".join(_frames(batch) for batch in batches)

    def send() -> None:
        for at in range(0, len(data), piece):
            ours.sendall(data[at : at + piece])

    assert wire.install(theirs)
    assert messages._retrieve_buffer is not stock
    thread = threading.Thread(target=send)
    thread.start()
    received = [messages.retrieve_msg(theirs) for _ in batches]
    thread.join()
    plain = Plain(data)
    assert received == [messages.retrieve_msg(plain) for _ in batches]
    assert plain.at == len(data)


class Plain:
    """Another connection, which the stock function still reads."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def recv(self, length: int) -> bytes:
        self.at += length
        return self.data[self.at - length : self.at]


@pytest.mark.parametrize("left", [0, 10])
def test_a_connection_that_ends_ends_the_worker(sockets, stock, left):
    ours, theirs = sockets
    wire.install(theirs)
    ours.sendall(_frames((sent(100),))[:left])
    ours.close()
    with pytest.raises(SystemExit) as ended:
        messages.retrieve_msg(theirs)
    assert ended.value.code == 0


def test_any_other_torchserve_is_left_alone(sockets, stock, monkeypatch):
    monkeypatch.setattr(ts, "__version__", "0.12.1")
    assert not wire.install(sockets[1])
    assert messages._retrieve_buffer is stock


def test_what_is_no_socket_is_left_alone(stock):
    assert not wire.install(SimpleNamespace(recv=None))
    assert messages._retrieve_buffer is stock
