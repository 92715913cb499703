"""Bad requests amid good ones, in real batches: each gets its own answer, no worker dies."""

import json
import random
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
import requests

from handlers.metrics import INTERVAL
from tests.integration import quadrant
from tests.integration.torchserve import Running
from tests.unit.corpus import Malformed, malformed

CLIENTS = 16

MULTIPART = {
    "no boundary": ("multipart/form-data", b"--x\r\n\r\nabc"),
    "cut short": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="data"; filename="a.png"\r\n\r\nabc',
    ),
    "no name": (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n",
    ),
    "no parts": ("multipart/form-data; boundary=x", b"--x--\r\n"),
    "another boundary": ("multipart/form-data; boundary=y", b"--x\r\n\r\nabc\r\n--x--\r\n"),
    "unicode name": (
        "multipart/form-data; boundary=x",
        '--x\r\nContent-Disposition: form-data; name="\u2603"\r\n\r\nabc\r\n--x--\r\n'.encode(),
    ),
    "bytes that are no UTF-8 for a name": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="\xff\xfe\x80"\r\n\r\nabc\r\n--x--\r\n',
    ),
}


def test_bad_requests_harm_nobody(served: Running) -> None:
    bad = malformed()
    assert len(bad) >= 200
    assert all(400 <= case.status < 500 for case in bad)
    shots: list[Malformed | int] = []
    for index, case in enumerate(bad):
        shots += [index % 4, case]
    random.Random(0).shuffle(shots)
    pids = served.pids("quadrant")
    batches, items = batch_figures(served)
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda shot: send(served, shot), shots))
    for shot, reply in zip(shots, replies, strict=True):
        if isinstance(shot, int):
            assert reply.status_code == 200, reply.text
            assert reply.json()["predictions"][0]["index"] == shot
            continue
        assert reply.status_code == shot.status, (shot.name, reply.text)
        error = reply.json()
        assert error["code"] == shot.status, shot.name
        assert error["type"] and error["message"], shot.name
    assert served.pids("quadrant") == pids, "a worker was restarted"
    more_batches, more_items = batch_figures(served)
    ran, pictures = more_batches - batches, more_items - items
    assert pictures > 1.2 * ran, f"{pictures} pictures in {ran} batches: nothing was batched"


@pytest.mark.parametrize("name", MULTIPART)
def test_a_broken_form_is_the_clients_error(served: Running, name: str) -> None:
    pids = served.pids("quadrant")
    kind, body = MULTIPART[name]
    reply = requests.post(
        served.settings.inference + "/predictions/quadrant",
        data=body,
        headers={**served.header(), "Content-Type": kind},
        timeout=30,
    )
    if name == "no name":  # TorchServe's own parser fails, before any worker sees it
        assert reply.json()["type"] == "ErrorDataDecoderException"
    else:
        assert 400 <= reply.status_code < 500, reply.text
    assert served.pids("quadrant") == pids


@pytest.mark.parametrize(
    "header",
    [
        b"X-Odd: \xff\xfe\x80",
        b"X-Top-K: \xe2\x98\x83",
        b"X-Top-K: 99999999999999999999",
        b"Content-Type: \xff/\xff",
        b"Content-Type: application/json; charset=\xff",
        b"X-Long: " + b"a" * 7000,
        b"Content-Encoding: gzip",
    ],
)
def test_odd_headers_never_kill_a_worker(served: Running, header: bytes) -> None:
    """Sent over a bare socket, as HTTP libraries refuse to send them."""
    pids = served.pids("quadrant")
    body = quadrant.picture(0)
    key = served.header()["Authorization"].encode()
    where = urlsplit(served.settings.inference)
    with socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=30) as wire:
        wire.sendall(
            b"POST /predictions/quadrant HTTP/1.1\r\nHost: localhost\r\n"
            b"Authorization: " + key + b"\r\n" + header + b"\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        reply = HTTPResponse(wire)
        reply.begin()
        text = reply.read()
    assert reply.status == 200 or 400 <= reply.status < 500, text
    if reply.status == 200:
        assert json.loads(text)["predictions"][0]["index"] == 0
    assert served.pids("quadrant") == pids


def send(served: Running, shot: Malformed | int) -> requests.Response:
    """POST a malformed body, or a good picture of that label, on a connection of its own."""
    headers = served.header()
    body = quadrant.picture(shot) if isinstance(shot, int) else shot.body
    kind = "image/png" if isinstance(shot, int) else shot.content_type
    if kind:
        headers["Content-Type"] = kind
    url = served.settings.inference + "/predictions/quadrant"
    return requests.post(url, data=body, headers=headers, timeout=60)


def batch_figures(served: Running) -> tuple[float, float]:
    """How many batches the worker ran, and over how many pictures."""
    time.sleep(INTERVAL + 0.5)  # workers tell once an interval
    text = requests.get(served.settings.metrics + "/metrics", timeout=10).text
    pattern = r'marpress_batch_size_{}{{ModelName="quadrant".*}} (\S+)'
    count, total = (
        sum(float(n) for n in re.findall(pattern.format(part), text)) for part in ("count", "sum")
    )
    return count, total
