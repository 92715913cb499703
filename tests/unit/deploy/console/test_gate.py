"""Who may ask the console."""

import pytest

from deploy.console.gate import Gate
from deploy.service.failure import Failure
from deploy.service.request import Request


@pytest.fixture
def gate() -> Gate:
    made = Gate()
    made.port = 1234
    return made


def cookie(gate: Gate) -> str:
    return gate.enter(gate.link.rpartition("/")[2]).partition(";")[0]


def request(gate: Gate, path: str = "/ask", method: str = "POST", **changes: str) -> Request:
    headers = {
        "host": "127.0.0.1:1234",
        "origin": "http://127.0.0.1:1234",
        "sec-fetch-site": "same-origin",
        "cookie": f"other=1; {cookie(gate)}",
        "x-console-token": gate.token,
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return Request(method, path, headers=[(k, v) for k, v in headers.items() if v != "none sent"])


def test_the_pages_own_requests(gate: Gate) -> None:
    gate.check(request(gate))
    gate.check(request(gate, "/live", "GET", origin="none sent"))
    gate.check(request(gate, host="LOCALHOST:1234", origin="http://localhost:1234"))
    # Somebody types the address, or the first page goes on to it: no token yet, and no origin.
    typed = {"origin": "none sent", "x_console_token": "none sent", "sec_fetch_site": "none"}
    gate.check(request(gate, "/", "GET", **typed))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"host": "evil.example"}, "not known as"),
        ({"host": "evil.example:1234"}, "not known as"),
        ({"host": "127.0.0.1"}, "not known as"),
        ({"host": "127.0.0.1:1235"}, "not known as"),
        ({"host": "127.0.0.1.evil.example:1234"}, "not known as"),
        ({"host": "none sent"}, "not known as"),
        ({"origin": "http://evil.example"}, "another origin"),
        ({"origin": "null"}, "another origin"),
        ({"origin": "http://127.0.0.1:8080"}, "another origin"),
        ({"origin": "https://127.0.0.1:1234"}, "another origin"),
        ({"origin": "none sent"}, "no origin"),
        ({"sec_fetch_site": "cross-site"}, "another site"),
        ({"sec_fetch_site": "same-site"}, "another site"),
        ({"cookie": "none sent"}, "not been let in"),
        ({"cookie": "marpress-console-1234=guess"}, "not been let in"),
        ({"cookie": "marpress-console-1234="}, "not been let in"),
        ({"cookie": "\xff=;;=\x00"}, "not been let in"),
        ({"x_console_token": "none sent"}, "has ended"),
        ({"x_console_token": "caf\xe9"}, "has ended"),
    ],
)
def test_everyone_else(gate: Gate, changes: dict[str, str], why: str) -> None:
    with pytest.raises(Failure, match=why) as caught:
        gate.check(request(gate, **changes))
    assert caught.value.status == 403


def test_the_token_is_asked_of_whatever_reads_too(gate: Gate) -> None:
    for path in ("/live", "/ask", "/nothing"):
        with pytest.raises(Failure, match="has ended"):
            gate.check(request(gate, path, "GET", x_console_token="none sent"))
    with pytest.raises(Failure, match="not been let in"):
        gate.check(request(gate, "/", "GET", cookie="none sent"))


def test_what_is_open_still_has_a_host(gate: Gate) -> None:
    for path in ("/static/console.js", "/enter/code"):
        gate.check(Request("GET", path, headers=[("host", "127.0.0.1:1234")]))
        with pytest.raises(Failure, match="not known as"):
            gate.check(Request("GET", path, headers=[("host", "evil.example:1234")]))


def test_a_console_that_does_not_listen_yet_lets_nobody_in() -> None:
    with pytest.raises(Failure):
        Gate().check(Request("GET", "/", headers=[("host", "127.0.0.1:None")]))


def test_a_link_works_once(gate: Gate) -> None:
    link = gate.link
    said = gate.enter(link.rpartition("/")[2])
    assert said.startswith("marpress-console-1234=")
    assert said.endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert gate.link != link
    for code in (link.rpartition("/")[2], "", "guess", "caf\xe9"):
        with pytest.raises(Failure, match="used already"):
            gate.enter(code)
    assert gate.token not in said and gate.token not in gate.link


def test_two_consoles_share_nothing(gate: Gate) -> None:
    other = Gate()
    other.port = 1234
    with pytest.raises(Failure, match="not been let in"):
        other.check(request(gate))


def test_a_cookie_of_another_ports_server_does_not_lock_out(gate: Gate) -> None:
    gate.check(request(gate, cookie=f'theirs={{"a": 1}}; bad name=1; {cookie(gate)}'))
