"""Adopted archives: stock TorchServe still serves them, and the service answers as it does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from deploy.__main__ import main
from deploy.adopt.adopt import adopt
from deploy.torchserve.management import Management
from deploy.torchserve.tokens import Tokens
from tests.integration.service import Service, serving
from tests.integration.torchserve import Running
from tests.unit.deploy.adopt import foreign

KINDS = (
    *("list", "dict", "text", "bytes", "number", "set", "refused", "refused 500", "fails"),
    *("memory", "tuple", "short", "typed", "status", "all", "row", "tensor"),
)


@pytest.fixture(scope="module")
def adopted(served: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the store, made elsewhere and adopted."""
    made = foreign.write(
        tmp_path_factory.mktemp("old"), "answers", "answers.py", {"answers.py": foreign.ANSWERS}
    )
    archive = adopt(made, served.workdir / "model_store").archive
    assert archive is not None
    return archive.path


@pytest.fixture(scope="module")
def service(
    served: Running, adopted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    # As config.properties says it to TorchServe, whose default is true.
    decode = {"TS_DECODE_INPUT_REQUEST": "false"}
    with serving(tmp_path_factory.mktemp("service"), adopted, **decode) as running:
        yield running


def test_answers_are_torchserves(served: Running, service: Service, adopted: Path) -> None:
    served.management.register(adopted.name)
    differ = []
    for kind in KINDS:
        for body, declared in ((b'{"a": 1}', "application/json"), (b"x", "text/plain")):
            headers = {"kind": kind, "Content-Type": declared}
            theirs, ours = (
                _seen(requests.post(f"{address}/predictions/answers", body, headers={**h}))
                for address, h in (
                    (served.settings.inference, {**headers, **served.header()}),
                    (service.address, headers),
                )
            )
            # TorchServe names no type unless the handler does.
            if theirs[:2] != ours[:2] or (theirs[2] or ours[2]) != ours[2]:
                differ.append((kind, declared, theirs, ours))
    assert not differ, "\n".join(map(str, differ))


def test_described_as_not_measured(service: Service, adopted: Path) -> None:
    tokens = Tokens(service.workdir / "key_file.json", service.management)
    (told,) = Management(service.management, tokens).describe("answers", customized=True)
    assert told["customizedMetadata"]["evidence"] == "adopted, not measured"


def _seen(response: requests.Response) -> tuple[int, bytes, Any]:
    body = response.content
    if body.startswith(b"{"):
        body = json.dumps(json.loads(body)).encode()
    return response.status_code, body, response.headers.get("Content-Type")


def test_compared_with_the_old_server(
    served: Running,
    service: Service,
    adopted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command compares a real TorchServe with the service, and then with another model."""
    for kind in ("list", "dict", "fails"):
        (tmp_path / f"{kind}.json").write_text("{}")
        (tmp_path / f"{kind}.json.headers.json").write_text(json.dumps({"kind": kind}))
    token = f"Authorization: {served.header()['Authorization']}"
    command = ["adopt", str(adopted), "--compare", served.settings.inference, "--header", token]
    command += ["--with", service.address, "--requests", str(tmp_path)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["compared"]
    statuses = [(one["name"], one["old"], one["ours"], one["verdict"]) for one in found]
    assert statuses == [
        ("dict.json", 200, 200, "same"),
        ("fails.json", 503, 503, "same"),
        ("list.json", 200, 200, "same"),
    ]
    command[command.index("--with") + 1] = f"{service.address}/predictions/none"
    assert main(command) == 6
    assert "status 200, here 404" in capsys.readouterr().out
