"""The same four hundred requests to a real TorchServe and to the microservice: the same answers."""

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import requests

from deploy.torchserve.management import Management
from deploy.torchserve.tokens import Tokens
from tests.integration import quadrant
from tests.integration.service import Service, serving
from tests.integration.test_isolation import MULTIPART
from tests.integration.torchserve import Running
from tests.unit.corpus import malformed

# TorchServe's own parser fails on these with 500 and a Java message; the client is to blame.
FORMS_WITHOUT_A_NAME = {"form no name", "web form =x", "web form data=%zz"}


@dataclass(frozen=True)
class Shot:
    """One request: method and path, body and headers."""

    name: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def shots() -> list[Shot]:
    """Over three hundred requests, good and bad."""
    path = "/predictions/quadrant"
    found = []
    for case in malformed():
        kind = {"Content-Type": case.content_type} if case.content_type else {}
        found.append(Shot(case.name, path, case.body, kind))
    for label in range(4):
        for kind in ("PNG", "JPEG", "WEBP", "GIF"):
            body = quadrant.picture(label, kind, side=50)
            for declared in (f"image/{kind.lower()}", "application/octet-stream", ""):
                headers = {"Content-Type": declared} if declared else {}
                found.append(Shot(f"{kind} {label} as {declared}", path, body, headers))
    return [*found, *_good(path), *_forms(path), *_places()]


def _good(path: str) -> Iterator[Shot]:
    picture = quadrant.picture(2)
    text = base64.b64encode(picture).decode()
    kind = {"Content-Type": "application/json"}
    pixels = [[0] * 28 for _ in range(14)] + [[255] * 28 for _ in range(14)]
    values: list[Any] = [
        {"data": text},
        {"b64": text, "top_k": 1},
        {"instances": [{"b64": text}, text], "parameters": {"top_k": 2}},
        [text, text],
        {"data": pixels},
        {"image": {"b64": text}},
    ]
    for value in values:
        yield Shot(f"JSON {str(value)[:30]}", path, json.dumps(value).encode(), kind)
        utf8 = {"Content-Type": "application/json; charset=utf-8"}
        yield Shot(f"JSON utf-8 {str(value)[:30]}", path, json.dumps(value).encode(), utf8)
    for top in ("1", "4", "0", "5", "x", ""):
        yield Shot(f"X-Top-K {top!r}", path, picture, {"X-Top-K": top})
    for method in ("PUT", "GET"):
        yield Shot(f"by {method}", path, picture, method=method)
    yield Shot("a query string", path + "?top_k=1", picture)


def _forms(path: str) -> Iterator[Shot]:
    for name, (kind, body) in MULTIPART.items():
        yield Shot(f"form {name}", path, body, {"Content-Type": kind})
    url = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"", b"data=abc", b"top_k=2", b"data=abc&data=def", b"data=%7B%7D", b"foo", b"=x"):
        yield Shot(f"web form {body.decode()}", path, body, url)
    for body in (b"data=%zz", b"a\xff=1", b"data=a+b%20c;x=1", b"foo&data=abc"):
        yield Shot(f"web form {body.decode('latin-1')}", path, body, url)
    field = 'Content-Disposition: form-data; name="{}"'
    file = field + '; filename="a.png"\r\nContent-Type: image/png'
    one, two = quadrant.picture(0), quadrant.picture(3)
    for name, parts in {
        "file": [(file.format("data"), one)],
        "file and top_k": [(file.format("data"), one), (field.format("top_k"), b"2")],
        "two names": [(file.format("data"), one), (file.format("image"), two)],
        "one name twice": [(file.format("data"), one), (file.format("data"), two)],
        "another name": [(file.format("anything"), one)],
        "unknown field": [(field.format("colour"), b"red")],
        "field of JSON": [(field.format("data"), b'{"data": [[1, 2], [3, 4]]}')],
        "no type": [(field.format("data") + '; filename="a"', one)],
    }.items():
        yield Shot(f"parts: {name}", path, _multipart(parts), _form("x"))
        yield Shot(f"quoted: {name}", path, _multipart(parts), _form('"x"'))
    whole = _multipart([(file.format("data"), one)])
    yield Shot("no end", path, whole.removesuffix(b"--x--\r\n"), _form("x"))
    yield Shot("half an end", path, whole[:-4] + b"\r\n", _form("x"))
    yield Shot("a preamble", path, b"hello\r\n" + whole, _form("x"))
    yield Shot("upper case", path, whole, {"Content-Type": "Multipart/Form-Data; boundary=x"})


def _places() -> Iterator[Shot]:
    picture = quadrant.picture(1)
    for path in (
        *("/predictions/nope", "/predictions/quadrant/9", "/predictions", "/predictions/"),
        *("/predictions/quadrant/", "/predictions//", "/explanations/quadrant", "/nope", "/nope/x"),
        *("/explanations/nope", "/predictions/quad%72ant", "/"),
        *("/predictions/no%20pe", "/predictions/%2e%2e/x", "/predictions/%c3%a9", "/ping/x"),
    ):
        yield Shot(f"at {path}", path, picture)
    for path in (
        *("/quadrant/predict", "/quadrant/predict?top_k=1", "/quadrant/predict?colour=1"),
        *("/quadrant/predict?top_k=x", "/nope/predict", "/quadrant/nope/predict"),
        *("/invocations?model_name=nope", "/models/quadrant/invoke", "/models/nope/invoke"),
        *("/models/quadrant/invoke?top_k=2", "/quadrant/predict/x", "/invocations/x"),
    ):
        yield Shot(f"at {path}", path, picture)
    yield Shot("ping", "/ping", method="GET")
    yield Shot("root", "/", method="GET")


def _multipart(parts: list[tuple[str, bytes]]) -> bytes:
    body = b"".join(b"--x\r\n" + h.encode() + b"\r\n\r\n" + c + b"\r\n" for h, c in parts)
    return body + b"--x--\r\n"


def _form(boundary: str) -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}


@pytest.fixture(scope="module")
def service(running: Service) -> str:
    """The address of `running`."""
    return running.address


@pytest.fixture(scope="module")
def running(served: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`python -m deploy flask` on the very archive that TorchServe serves."""
    archive = served.workdir / "model_store" / "quadrant.mar"
    with serving(tmp_path_factory.mktemp("service"), archive) as running:
        yield running


def send(address: str, shot: Shot, headers: dict[str, str]) -> tuple[int, str, bytes]:
    """Status, content type and body, each request on a connection of its own."""
    prepared = requests.Request(shot.method, address, data=shot.body, headers=shot.headers)
    ready = prepared.prepare()
    ready.url = address + shot.path  # as written: the library would tidy it
    ready.headers.update(headers)
    with requests.Session() as session:
        reply = session.send(ready, timeout=60)
    return reply.status_code, reply.headers.get("Content-Type", ""), reply.content


def test_status_and_body_are_torchserves(served: Running, service: str) -> None:
    asked = shots()
    assert len(asked) >= 300
    assert len({shot.name for shot in asked}) == len(asked)
    ours, theirs = [], []
    with ThreadPoolExecutor(2) as pool:
        for shot in asked:  # one at a time: sums differ in the last digit with the batch
            first = pool.submit(send, service, shot, {})
            theirs.append(send(served.settings.inference, shot, served.header()))
            ours.append(first.result())
    different = []
    for shot, mine, their in zip(asked, ours, theirs, strict=True):
        if shot.name in FORMS_WITHOUT_A_NAME:
            assert (mine[0], their[0]) == (400, 500), shot.name
            assert json.loads(mine[2])["type"] == json.loads(their[2])["type"]
        elif mine != their:
            different.append((shot.name, mine, their))
    assert not different, f"{len(different)} of {len(asked)}: {different[:5]}"
    assert sum(status == 200 for status, _, _ in ours) >= 60
    assert sum(status >= 400 for status, _, _ in ours) >= 200


def test_a_body_over_the_limit_is_refused_with_the_same_status(
    served: Running, service: str
) -> None:
    shot = Shot("too long", "/predictions/quadrant", bytes(33_554_433))
    codes = []
    for address, headers in ((service, {}), (served.settings.inference, served.header())):
        try:
            codes.append(send(address, shot, headers)[0])
        except requests.ConnectionError:
            codes.append(413)  # it answered and hung up while we still sent
    assert codes == [413, 413]


def test_the_description_is_torchserves(served: Running, running: Service) -> None:
    tokens = Tokens(running.workdir / "key_file.json", running.management)
    (mine,) = Management(running.management, tokens).describe("quadrant", customized=True)
    (theirs,) = served.management.describe("quadrant", customized=True)
    for key in (
        "modelName",
        "modelVersion",
        "modelUrl",
        "batchSize",
        "maxBatchDelay",
        "minWorkers",
    ):
        assert mine[key] == theirs[key], key
    # TorchServe leaves out what is null.
    told = {key: value for key, value in mine["customizedMetadata"].items() if value is not None}
    assert told == theirs["customizedMetadata"]
    assert set(mine["workers"][0]) == set(theirs["workers"][0])
    assert set(mine) <= set(theirs)


def test_the_report_is_not_for_those_without_the_key(running: Service) -> None:
    url = f"{running.address}/models/quadrant"
    assert "customizedMetadata" not in requests.get(url, timeout=30).json()[0]
    refused = requests.get(url + "?customized=true", timeout=30)
    assert (refused.status_code, refused.json()["code"]) == (403, 403)
