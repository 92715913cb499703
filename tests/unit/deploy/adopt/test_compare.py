"""Two servers' answers side by side."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.adopt import command, compare, recorded
from deploy.adopt.compare import Answered
from deploy.errors import BadInput, NoServer


def verdict(old: Any, ours: Any, **bounds: float) -> str:
    answers = (Answered(200, json.dumps(value).encode()) for value in (old, ours))
    return compare.compare("x", *answers, **bounds).verdict


@pytest.mark.parametrize(
    ("old", "ours", "expected"),
    [
        ({"a": 1, "b": [0.5]}, {"b": [0.5], "a": 1}, "same"),
        ([0.5, 2.0], [0.5002, 2.001], "close"),
        ([0.5], [0.51], "differs"),
        ([0.0], [5e-6], "close"),
        ({"cat": 0.9}, {"dog": 0.9}, "differs"),
        ([1, 2], [1, 2, 3], "differs"),
        (["cat"], ["dog"], "differs"),
        ([True], [1], "differs"),
        ([None], [0], "differs"),
        ([float("inf"), 1.0], [float("inf"), 1.0001], "close"),
        ([float("inf")], [5.0], "differs"),
        ([float("nan"), 1.0], [float("nan"), 1.0001], "close"),
        ([10**400], [5.0], "differs"),
    ],
)
def test_bodies(old: Any, ours: Any, expected: str) -> None:
    assert verdict(old, ours) == expected


def test_bounds_and_what_is_said() -> None:
    assert verdict([1.0], [1.4], rtol=0.5) == "close"
    first, second = Answered(200, b'{"a": {"b": [1, 2]}}'), Answered(200, b'{"a": {"b": [1, 9]}}')
    assert compare.compare("x", first, second).why == "a.b[1] is 2, here 9"
    found = compare.compare("x", Answered(200, b"[100.0]"), Answered(200, b"[100.05]"))
    assert found.largest == pytest.approx(5e-4)


def test_statuses_and_other_bodies() -> None:
    assert compare.compare("x", Answered(400, b"a"), Answered(400, b"b")).verdict == "same"
    found = compare.compare("x", Answered(200, b"[]"), Answered(503, b"[]"))
    assert (found.verdict, found.why) == ("differs", "status 200, here 503")
    refused = Answered(400, b'{"code": 400, "message": "Token Authorization failed"}')
    found = compare.compare("x", refused, Answered(200, b"[]"))
    assert found.why == "status 400 (Token Authorization failed), here 200"
    assert compare.compare("x", Answered(200, b"\xff\x00"), Answered(200, b"\xff\x01")).why


def test_addresses() -> None:
    assert compare.address("http://h:1/", "a b") == "http://h:1/predictions/a%20b"
    assert (
        compare.address("http://h:1/v1/models/m:predict", "m") == "http://h:1/v1/models/m:predict"
    )
    for wrong in ("h:1", "old-server", "ftp://h", "http://", "http://[", ""):
        with pytest.raises(BadInput, match="no server's address"):
            compare.check_address(wrong)
    compare.check_address("http://h:1/")
    with pytest.raises(NoServer, match=r"connection refused$"):
        compare.ask("http://127.0.0.1:9/predictions/x", recorded.Recorded("r", b""), {})


def test_a_folder_of_requests(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no requests"):
        recorded.read(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    (tmp_path / "b.bin").write_bytes(b"bytes")
    (tmp_path / "b.bin.headers.json").write_text('{"content-type": "text/csv", "x-top-k": 3}')
    (tmp_path / "labels.json").write_text("{}")
    first, second = recorded.read(tmp_path)
    assert (first.name, first.body, first.headers["Content-Type"]) == (
        "a.jpg",
        b"jpeg",
        "image/jpeg",
    )
    assert second.headers == {"content-type": "text/csv", "x-top-k": "3"}
    (tmp_path / "b.bin.headers.json").write_text("[]")
    with pytest.raises(BadInput, match="header to value"):
        recorded.read(tmp_path)


def test_headers_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("Authorization: Bearer a:b\n\nX-More: 1\n")
    assert command.headers([f"@{tmp_path / 'key'}", "X: y"]) == {
        "Authorization": "Bearer a:b",
        "X-More": "1",
        "X": "y",
    }
    for wrong in ("@missing", "no colon", ": v"):
        with pytest.raises(BadInput, match="--header"):
            command.headers([wrong])
