"""The key goes to the server it is for, whatever the shell's environment says."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.torchserve import http
from deploy.torchserve.tokens import Tokens
from tests.unit.deploy.torchserve.test_tokens import key_file


class Recorder(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def servers():
    """A server and a proxy, which note what they are asked."""
    made = [HTTPServer(("127.0.0.1", 0), Recorder) for _ in range(2)]
    for one in made:
        one.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=one.serve_forever, daemon=True).start()
    yield made
    for one in made:
        one.shutdown()
        one.server_close()


def test_neither_a_proxy_nor_netrc_gets_between(
    servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, proxy = servers
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    address = f"http://127.0.0.1:{server.server_port}"
    tokens = Tokens(key_file(tmp_path, 60), address)
    http.request("GET", f"{address}/a", auth=tokens.auth("management"), timeout=10)
    http.request("GET", f"{address}/b", timeout=10)
    tokens.renew("management")
    assert proxy.seen == []
    assert server.seen == [
        ("/a", "Bearer abc"),
        ("/b", None),
        ("/token?type=management", "Bearer ghi"),
    ]


@pytest.mark.parametrize(
    ("url", "own"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:8080/x", True),
        ("http://localhost", True),
        ("http://10.0.0.1:8080", False),
        ("https://models.example", False),
    ],
)
def test_loopback(url: str, own: bool) -> None:
    assert http.is_loopback(url) is own
