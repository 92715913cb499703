"""Names, keys and addresses that let a client in."""

from pathlib import Path

import pytest

from deploy.errors import BadInput
from deploy.service import access
from deploy.service.app import App
from deploy.service.metrics import Metrics
from deploy.service.responses import Reply
from tests.unit.deploy.service.client import Client


@pytest.fixture
def client(loop):
    def make(**options):
        app = App(Metrics())
        access.guard(app, **options)

        @app.route("/ping")
        @app.route("/predictions/x", methods=["POST"])
        def answer(request):
            return Reply(request.path.encode())

        return Client(loop, app)

    return make


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("LOCALHOST.", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("models.example:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8080", 403),
    ],
)
def test_names_of_the_service(client, host, status):
    asked = client(hosts=["models.example"])
    assert asked.post("/predictions/x", headers={"Host": host}).status_code == status


def test_a_key_is_asked_of_all_but_health(client):
    asked = client(key="a key of some length")
    assert asked.get("/ping").status_code == 200
    assert asked.post("/predictions/x").status_code == 400
    for key, status in (("a key of some length", 200), ("another", 400), ("", 400)):
        headers = {"Authorization": f"Bearer {key}"}
        assert asked.post("/predictions/x", headers=headers).status_code == status


def test_key_files(tmp_path: Path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef\n")
    path.chmod(0o644)
    with pytest.raises(BadInput, match="chmod 600"):
        access.read_key(path)
    path.chmod(0o600)
    assert access.read_key(path) == "0123456789abcdef"
    for text in ("short", "two lines of a key\nthat are no key", ""):
        path.write_text(text)
        with pytest.raises(BadInput, match="16 characters or more"):
            access.read_key(path)
    with pytest.raises(BadInput, match="cannot be read"):
        access.read_key(tmp_path / "none")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        *(("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("192.168.0.2", False), ("models.example", False)),
    ],
)
def test_loopback(host, own):
    assert access.is_loopback(host) is own
