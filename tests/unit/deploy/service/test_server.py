"""What a client has to keep to: the time for its head and body, over real sockets."""

import http.client
import socket
import threading
import time

import pytest

from deploy.service import server
from deploy.service.app import App
from deploy.service.metrics import Metrics
from deploy.service.responses import Reply


@pytest.fixture
def address(monkeypatch, loop):
    monkeypatch.setattr(server, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(server, "BODY_SECONDS", 2.0)
    app = App(Metrics())

    @app.route("/", methods=["POST"])
    def echo(request):
        return Reply(request.body)

    made = server.Server(app, "127.0.0.1", 0)
    answering = threading.Thread(target=loop.do, args=(made.answer(),))
    answering.start()
    yield "127.0.0.1", int(made.address.rpartition(":")[2])
    made.stop()
    answering.join()


def drip(wire, data):
    """Send a byte now and then, until the server hangs up; what it said."""
    wire.settimeout(0.2)
    try:
        for byte in data:
            wire.sendall(bytes([byte]))
            try:
                return wire.recv(4096)
            except TimeoutError:
                continue
    except OSError:
        return b""
    raise AssertionError("the server went on listening")


@pytest.mark.parametrize("start", ["", "POST / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: a\r\nX: "])
def test_a_head_that_never_ends(address, start):
    with socket.create_connection(address) as wire:
        wire.sendall(start.encode())
        # What can be no request is refused before its time is over.
        assert drip(wire, b"A" * 100)[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 400", b"")


def test_a_body_that_never_ends(address):
    with socket.create_connection(address) as wire:
        wire.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        assert drip(wire, b"a" * 100)[:12] in (b"HTTP/1.1 408", b"")


def test_a_connection_may_rest_between_two_requests(address):
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    with socket.create_connection(address) as wire:
        for _ in range(2):
            wire.sendall(request)
            said = b""
            while not said.endswith(b"hi"):  # head and body may come apart
                part = wire.recv(4096)
                assert part, said
                said += part
            wire.settimeout(1.5)
            with pytest.raises(TimeoutError):
                wire.recv(1)
            wire.settimeout(10)


@pytest.mark.parametrize("split", [False, True])
def test_an_offer_of_another_protocol_is_declined_and_costs_no_body(address, split):
    """Java's client and curl --http2 offer h2c with every first request."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    head += b"HTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\n"
    end = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nho"
    with socket.create_connection(address) as wire:
        wire.sendall(head)
        if split:
            time.sleep(0.1)
        wire.sendall(b"hi" + end)
        wire.settimeout(10)
        said = b"".join(iter(lambda: wire.recv(4096), b""))
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\nhiHTTP" in said
    assert said.endswith(b"ho")


def test_nothing_is_a_proxy_here(address):
    with socket.create_connection(address) as wire:
        wire.sendall(b"CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.recv(4096).startswith(b"HTTP/1.1 400")


def _request(body):
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def test_head_and_body_of_a_reply_come_in_one_packet(address):
    with socket.create_connection(address) as wire:
        for number in range(20):
            body = b"%d" % number
            wire.sendall(_request(body))
            assert wire.recv(65_536).partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize(
    "body",
    [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 65_536, b"b" * 300_000],
    ids=["none", "like a head", "as large as is joined", "large"],
)
def test_replies_of_every_size_arrive_whole(address, body):
    with socket.create_connection(address) as wire:
        for _ in range(3):
            wire.sendall(_request(body))
            reply = http.client.HTTPResponse(wire, method="POST")
            reply.begin()
            assert (reply.status, reply.read()) == (200, body)
