"""A closed loop of clients on persistent connections, in one thread: requests out, times in."""

import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.errors import NoServer

_TIMEOUT = 120.0
_RECEIVE = 65_536


@dataclass
class Answers:
    """What came back: latencies in seconds of the answers with status 200, and how many others."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    others: int = 0

    def quantile(self, share: float) -> float:
        """The latency that a share of the answers keeps to, in seconds; infinite without one."""
        if not self.latencies:
            return float("inf")
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def within(self, bound: float) -> float:
        """Answers a second whose latency kept to `bound` seconds: the goodput."""
        return sum(latency <= bound for latency in self.latencies) / self.seconds

    def worth(self, bound: float) -> float:
        """Answers a second, a late one counted as the part that `bound` is of its latency: where
        none keeps to the bound, faster is still better."""
        return sum(min(1.0, bound / latency) for latency in self.latencies) / self.seconds


def http_request(host: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """A POST with everything in it."""
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def closed_loop(
    address: tuple[str, int], requests: Sequence[bytes], clients: int, seconds: float
) -> Answers:
    """Each client sends its next request when its last is answered, for so many seconds.

    Raises NoServer where nothing listens, or nothing answers for two minutes.
    """
    answers = Answers(seconds)
    with selectors.DefaultSelector() as selector:
        connections = []
        try:
            for number in range(clients):
                connections.append(Client(address, requests, number, clients))
                selector.register(connections[-1].socket, selectors.EVENT_READ, connections[-1])
            start = time.perf_counter()
            end = start + seconds
            for connection in connections:
                connection.send()
            open_requests = clients
            while open_requests:
                ready = selector.select(_TIMEOUT)
                if not ready:
                    raise NoServer(f"no answer from {address[0]}:{address[1]} for two minutes")
                for key, _ in ready:
                    client: Client = key.data
                    status = client.receive()
                    if status is None:
                        continue
                    now = time.perf_counter()
                    if status == 200:
                        answers.latencies.append(now - client.sent)
                    else:
                        answers.others += 1
                    if now < end and not client.closing:
                        client.send()
                        continue
                    selector.unregister(client.socket)
                    open_requests -= now >= end
                    if now < end:
                        client.reconnect()
                        selector.register(client.socket, selectors.EVENT_READ, client)
                        client.send()
            answers.seconds = time.perf_counter() - start
        except OSError as error:
            raise NoServer(f"{address[0]}:{address[1]}: {error}") from error
        finally:
            for connection in connections:
                connection.socket.close()
    return answers


class Client:
    """One connection, which has one request under way."""

    def __init__(
        self, address: tuple[str, int], requests: Sequence[bytes], first: int, step: int
    ) -> None:
        self._address, self._requests, self._next, self._step = address, requests, first, step
        self._received = bytearray()
        self.sent = 0.0
        self.closing = False
        """Whether the server said that it closes the connection after this answer."""
        self.socket = socket.create_connection(address, _TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def reconnect(self) -> None:
        """A new connection in place of the one that the server closes."""
        self.socket.close()
        self.socket = socket.create_connection(self._address, _TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closing = False

    def send(self) -> None:
        """The next request, which the server reads at once: it waits for nothing else."""
        self._received.clear()
        request = self._requests[self._next % len(self._requests)]
        self._next += self._step
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """What has come; the status once the answer is whole."""
        data = self.socket.recv(_RECEIVE)
        if not data:
            raise OSError("the server closed the connection")
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return None
        length = 0
        for line in head.lower().split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                self.closing = value.strip() == b"close"
        return int(head.split(b" ", 2)[1]) if len(body) >= length else None
