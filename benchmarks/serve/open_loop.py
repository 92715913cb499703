"""Requests at a given rate, whatever the server does: the clients of an overload."""

import random
import selectors
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.tune.clients import Client

_MOST_CONNECTIONS = 2_000


@dataclass(frozen=True)
class Answer:
    """When a request was due, in seconds from the start, how long its answer took, its status.

    Status 0: no connection, or it was closed.
    """

    due: float
    seconds: float
    status: int


def open_loop(
    address: tuple[str, int], requests: Sequence[bytes], rate: float, seconds: float
) -> list[Answer]:
    """Poisson arrivals for so many seconds; returns once every request has been answered.

    A request's time counts from when it was due, so that a late sender hides nothing.
    """
    arrivals = random.Random(0)
    answers: list[Answer] = []
    free: list[Client] = []
    due_of: dict[Client, float] = {}
    opened: list[Client] = []
    start = time.perf_counter()
    due = arrivals.expovariate(rate)
    with selectors.DefaultSelector() as selector:

        def lose(client: Client) -> None:
            """The server has closed the connection, in the middle of an answer or after one."""
            selector.unregister(client.socket)
            client.socket.close()
            opened.remove(client)
            if client in free:
                free.remove(client)
            elif (began := due_of.pop(client, None)) is not None:
                answers.append(Answer(began, time.perf_counter() - start - began, 0))

        try:
            while due < seconds or due_of:
                now = time.perf_counter() - start
                while due <= now and due < seconds:
                    client = _free(address, requests, free, opened, selector)
                    if client is None:
                        answers.append(Answer(due, 0.0, 0))
                    else:
                        due_of[client] = due
                        try:
                            client.send()
                        except OSError:
                            lose(client)
                    due += arrivals.expovariate(rate)
                wait = max(0.0, due - (time.perf_counter() - start)) if due < seconds else 60.0
                for key, _ in selector.select(wait):
                    client = key.data
                    try:
                        status = client.receive()
                    except OSError:
                        lose(client)
                        continue
                    if status is not None:
                        began = due_of.pop(client)
                        took = time.perf_counter() - start - began
                        answers.append(Answer(began, took, status))
                        free.append(client)
                        if client.closing:
                            lose(client)
        finally:
            for client in opened:
                client.socket.close()
    return answers


def _free(
    address: tuple[str, int],
    requests: Sequence[bytes],
    free: list[Client],
    opened: list[Client],
    selector: selectors.DefaultSelector,
) -> Client | None:
    """A connection that has nothing under way, opened where there is none."""
    if free:
        return free.pop()
    if len(opened) == _MOST_CONNECTIONS:
        return None
    try:
        client = Client(address, requests, len(opened), 1)
    except OSError:
        return None
    opened.append(client)
    selector.register(client.socket, selectors.EVENT_READ, client)
    return client
