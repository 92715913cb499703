"""The console's routes, in front of no server: who is refused, and how errors are told."""

import asyncio
import json
import threading
from pathlib import Path

import pytest

from deploy.console import app, command
from deploy.console.app import build
from deploy.console.catalog import Catalog
from deploy.console.gate import Gate
from deploy.console.live import Live
from deploy.signing.policy import Policy
from deploy.torchserve import config, server
from deploy.torchserve.tokens import KEY_FILE, Tokens
from tests.unit.deploy.service.client import Client

# Port 9 is nobody's.
SETTINGS = "".join(f"{name}_address=http://127.0.0.1:9\n" for name in config.ADDRESSES)
KEY = "a-key-of-the-server"


@pytest.fixture
def gate() -> Gate:
    made = Gate()
    made.port = 1234
    return made


@pytest.fixture
def entered() -> list[str]:
    return []


@pytest.fixture
def client(tmp_path: Path, gate: Gate, entered: list[str], loop) -> Client:
    (tmp_path / "config.properties").write_text(SETTINGS)
    entry = {"key": KEY, "expiration time": "9999-12-31T23:59:59Z"}
    keys = {"management": entry, "inference": entry, "API": entry}
    (tmp_path / KEY_FILE).write_text(json.dumps(keys))
    settings = config.read(tmp_path / "config.properties")
    management, inference = server.clients(tmp_path, settings)
    tokens = Tokens(tmp_path / KEY_FILE, settings.management)
    behind = app.Server(
        settings.inference,
        tmp_path,
        Catalog(management, tmp_path, Policy()),
        inference,
        Live(management, lambda: command.metrics(settings, tokens)),
    )
    made = build(behind, gate, lambda: entered.append(gate.link))
    return Client(loop, made, {"Host": "127.0.0.1:1234", "Origin": "http://127.0.0.1:1234"})


@pytest.fixture
def inside(client: Client, gate: Gate) -> Client:
    """The same, of the page in a browser that was let in."""
    reply = client.get("/enter/" + gate.link.rpartition("/")[2])
    cookie = reply.headers["Set-Cookie"].partition(";")[0]
    sent = {**client.headers, "Cookie": cookie, "X-Console-Token": gate.token}
    return Client(client.loop, client.app, sent)


def test_the_link_lets_a_browser_in_and_the_next_one_is_told(
    client: Client, gate: Gate, entered: list[str]
) -> None:
    path = "/enter/" + gate.link.rpartition("/")[2]
    reply = client.get(path)
    assert reply.status_code == 200 and 'url=/"' in reply.text
    assert "HttpOnly; SameSite=Strict" in reply.headers["Set-Cookie"]
    assert entered == [gate.link] and not gate.link.endswith(path)
    again = client.get(path)
    assert again.status_code == 403 and "Set-Cookie" not in again.headers
    assert "<h1>Not let in</h1>" in again.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/live"),
        ("POST", "/ask"),
        ("POST", "/default"),
        ("POST", "/restore"),
        ("GET", "/nothing"),
    ],
)
def test_nobody_else_is_answered(client: Client, method: str, path: str) -> None:
    reply = client.open(path, method, b"body")
    assert reply.status_code == 403 and KEY not in reply.text


def test_every_reply_says_what_its_page_may_load(client: Client, inside: Client) -> None:
    for reply in (client.get("/"), inside.get("/"), client.get("/static/console.js")):
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self';" in policy and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in reply.headers["Cache-Control"]


def test_static_files_are_those_of_the_page(client: Client) -> None:
    assert client.get("/static/console.css").content_type.startswith("text/css")
    for path in ("/static/page.html", "/static/..", "/static/../app.py", "/static/%2e%2e/app.py"):
        assert client.get(path).status_code in (403, 404)


def test_without_the_server_the_page_says_so(inside: Client) -> None:
    reply = inside.get("/")
    assert reply.status_code == 502 and "<h1>No server answers</h1>" in reply.text
    assert "http://127.0.0.1:9" in reply.text and KEY not in reply.text
    for path, method in (("/live", "GET"), ("/ask?model=m&version=1", "POST")):
        reply = inside.open(path, method, b"text")
        assert (reply.status_code, reply.json["type"]) == (502, "NoServer")
        assert KEY not in reply.text
    for path in ("/default", "/restore"):
        reply = inside.post(f"{path}?model=../m&version=1")
        assert (reply.status_code, reply.json["type"]) == (502, "NoServer")


@pytest.mark.parametrize(
    "path",
    [
        "/ask",
        "/ask?model=m",
        "/ask?version=1",
        "/ask?model=m&version=1&other=n",
        "/default?model=m",
    ],
)
def test_requests_that_name_no_version(inside: Client, path: str) -> None:
    reply = inside.post(path, data=b"text")
    assert reply.status_code == 400 and "name a model and a version" in reply.json["message"]


def test_empty_questions(inside: Client) -> None:
    reply = inside.post("/ask?model=m&version=1")
    assert reply.status_code == 400 and "nothing was sent" in reply.json["message"]


def test_nobody_waits_for_a_server_that_does_not_answer() -> None:
    answers = threading.Event()

    async def end() -> None:
        asked = asyncio.ensure_future(app._aside(answers.wait))
        done, _ = await asyncio.wait([asked], timeout=0.05)
        assert not done
        asked.cancel()

    asyncio.run(asyncio.wait_for(end(), 10))  # which would wait for the threads of asyncio's pool
    answers.set()
    assert asyncio.run(app._aside(answers.is_set))
