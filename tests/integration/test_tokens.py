"""Keys that expire are renewed, on a real server."""

import json
from pathlib import Path

import pytest
import requests

from deploy.errors import NoServer
from deploy.torchserve.inference import Inference
from deploy.torchserve.tokens import Tokens
from tests.integration.torchserve import Running


def status(served: Running, header: dict[str, str]) -> int:
    """What /ping answers to one Authorization header."""
    url = served.settings.inference + "/ping"
    return requests.get(url, headers=header, timeout=10).status_code


def test_renewing_replaces_one_key_and_ends_the_old_one(served: Running) -> None:
    before = json.loads((served.workdir / "key_file.json").read_text())
    old = served.header()
    served.tokens.renew("inference")
    after = json.loads((served.workdir / "key_file.json").read_text())
    assert after["inference"]["key"] != before["inference"]["key"]
    assert after["management"] == before["management"]
    assert after["API"] == before["API"]
    assert status(served, old) == 400
    assert status(served, served.header()) == 200


def test_an_expired_key_is_renewed_before_use(served: Running) -> None:
    path = served.workdir / "key_file.json"
    keys = json.loads(path.read_text())
    old = keys["management"]["key"]
    keys["management"]["expiration time"] = "2020-01-01T00:00:00.123456789Z"
    path.write_text(json.dumps(keys))
    assert "quadrant" in served.management.models()
    renewed = json.loads(path.read_text())["management"]
    assert renewed["key"] != old
    assert renewed["expiration time"] > "2020-01-02"


def test_a_key_that_the_server_no_longer_takes_is_renewed_once(
    served: Running, tmp_path: Path
) -> None:
    """Another client renewed it in between: the key read a moment ago is refused."""
    path = served.workdir / "key_file.json"
    keys = json.loads(path.read_text())
    keys["inference"]["key"] = "AAAAAAAA"
    path.write_text(json.dumps(keys))
    assert served.inference.ping() == "Healthy"


def test_no_key_file_says_what_to_do(served: Running, tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "key_file.json", served.settings.management)
    with pytest.raises(NoServer, match="deploy start"):
        Inference(served.settings.inference, tokens).ping()
