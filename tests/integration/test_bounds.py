"""Every request is answered or refused, whatever the handler and the other clients do."""

import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import requests

from tests.integration import sleeper
from tests.integration.service import Service, serving

TIMEOUT_S = 3


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the handler notes what it computes."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Iterator[Service]:
    workdir = tmp_path_factory.mktemp("bounds")
    store = workdir / "model_store"
    archive = sleeper.seal(workdir / "artifacts", store, response_timeout_s=TIMEOUT_S)
    with serving(workdir, archive, TS_SLEEPER=str(notes)) as running:
        yield running


def ask(service: Service, value: object) -> requests.Response:
    url = f"{service.address}/predictions/sleeper"
    return requests.post(url, json={"data": value}, timeout=60)


def health(service: Service) -> dict[str, int]:
    """The status of each health route; it must come at once."""
    paths = ("/ping", "/v2/health/live", "/v2/health/ready", "/v2/models/sleeper/ready")
    return {path: requests.get(service.address + path, timeout=10).status_code for path in paths}


def until(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not come true")


def test_more_clients_than_can_be_served(service: Service) -> None:
    with ThreadPoolExecutor(200) as pool:
        asked = [pool.submit(ask, service, 0.5) for _ in range(200)]
        until(lambda: any(one.done() for one in asked))
        assert set(health(service).values()) == {200}
        assert not all(one.done() for one in asked)
        replies = [one.result() for one in asked]
    counts = Counter(reply.status_code for reply in replies)
    assert {200, 503} <= set(counts) <= {200, 503, 504}
    refused = [reply for reply in replies if reply.status_code == 503]
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
    assert {reply.json()["code"] for reply in refused} == {503}
    # Nothing of what was given up is still being computed.
    assert ask(service, 0.0).status_code == 200


def test_clients_of_a_handler_that_hangs(service: Service, notes: Path) -> None:
    """Its worker is ended, and a fresh one goes on by itself."""
    with ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(ask, service, "hang") for _ in range(40)]
        statuses = {one.result().status_code for one in asked}
    assert statuses <= {503, 504}
    until(lambda: set(health(service).values()) == {200})
    assert ask(service, 0.0).status_code == 200
    assert (notes / "done").read_text().split().count("hang") == 1


def test_a_panic_in_the_handler(service: Service) -> None:
    """What is no Exception ends the worker; the request is tried once more, alone."""
    reply = ask(service, "panic")
    assert (reply.status_code, reply.json()["type"]) == (500, "WORKER_DIED")
    until(lambda: health(service)["/ping"] == 200)
    assert ask(service, 0.0).status_code == 200


def test_what_clients_that_hung_up_asked_for_is_not_computed(service: Service, notes: Path) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    body = b'{"data": 0.25}'
    head = "POST /predictions/sleeper HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, service, 1.5)
        until(lambda: "1.5" in (notes / "done").read_text().split())
        for _ in range(20):
            with closing(socket.create_connection((host, int(port)))) as wire:
                wire.sendall(head.encode() + body)
        assert first.result().status_code == 200
    assert ask(service, 0.0).status_code == 200
    assert (notes / "done").read_text().split().count("0.25") <= 1


def test_a_thousand_connections_that_never_finish(service: Service) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    host, port = service.address.removeprefix("http://").split(":")
    try:
        with ExitStack() as stack:
            wires = [
                stack.enter_context(closing(socket.create_connection((host, int(port)))))
                for _ in range(1000)
            ]
            for wire in wires:
                wire.setblocking(False)
                wire.send(b"P")
            assert set(health(service).values()) == {200}
            assert ask(service, 0.0).status_code == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_another_name_than_this_machines_is_refused(service: Service) -> None:
    url = f"{service.address}/predictions/sleeper"
    rebound = requests.post(url, json={"data": 0.0}, headers={"Host": "evil.example"}, timeout=10)
    assert (rebound.status_code, rebound.json()["code"]) == (403, 403)
    assert "--allow-host" in rebound.json()["message"]
