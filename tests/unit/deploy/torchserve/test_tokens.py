"""Reading the key file; renewal is tested on a real server."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.errors import NoServer
from deploy.torchserve.tokens import Tokens, _expiry


def key_file(folder: Path, minutes: float) -> Path:
    """A key file as TorchServe writes it, valid for so many minutes."""
    moment = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%S")
    entry = {"key": "abc", "expiration time": f"{moment}.123456789Z"}
    keys = {"management": entry, "inference": {**entry, "key": "def"}, "API": {"key": "ghi"}}
    path = folder / "key_file.json"
    path.write_text(json.dumps(keys))
    return path


def test_a_valid_key_is_used_as_it_is(tmp_path: Path) -> None:
    tokens = Tokens(key_file(tmp_path, 60), "http://127.0.0.1:9")
    assert tokens.header("management") == {"Authorization": "Bearer abc"}
    assert tokens.header("inference") == {"Authorization": "Bearer def"}


@pytest.mark.parametrize("minutes", [-1.0, 0.2])
def test_an_expired_key_asks_the_server(tmp_path: Path, minutes: float) -> None:
    tokens = Tokens(key_file(tmp_path, minutes), "http://127.0.0.1:9")
    with pytest.raises(NoServer, match="no TorchServe answers"):
        tokens.header("management")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"management": {}}'])
def test_a_broken_key_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "key_file.json").write_text(text)
    with pytest.raises(NoServer, match="missing or no key file"):
        Tokens(tmp_path / "key_file.json", "http://127.0.0.1:9").header("inference")


def test_a_server_without_tokens_needs_no_header() -> None:
    assert Tokens(None, "http://127.0.0.1:9").header("inference") == {}


@pytest.mark.parametrize("text", ["2026-11-23T20:19:56.594834201Z", "2026-11-23T20:19:56Z"])
def test_javas_instants(text: str) -> None:
    assert _expiry(text) == datetime(2026, 11, 23, 20, 19, 56, tzinfo=UTC)
