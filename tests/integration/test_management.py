"""Register, describe, scale, replace and remove models on a real server."""

import json
import zipfile
from pathlib import Path

import jsonschema
import pytest
import requests

from deploy.archive import mar
from deploy.errors import Conflict, ModelNotFound, Refused, TokenRefused, UrlRefused, WorkerDied
from deploy.torchserve.management import Management
from deploy.torchserve.rollout import registration
from deploy.torchserve.tokens import Tokens
from tests.integration import quadrant
from tests.integration.torchserve import Running

MISSING_IMPORT = "import no_such_package_at_all\n\n\nclass Broken:\n    pass\n"
FAILING = (
    "class Broken:\n"
    "    def initialize(self, context):\n"
    "        raise ValueError('nothing but trouble')\n"
    "    def handle(self, data, context):\n"
    "        return data\n"
)


def test_the_archive_says_how_it_is_run(served: Running) -> None:
    (entry,) = served.management.describe("quadrant")
    wanted = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "maxBatchDelay": 20}
    assert {key: entry[key] for key in wanted} == wanted
    assert entry["responseTimeout"] == 30
    assert [worker["status"] for worker in entry["workers"]] == ["READY"]


def test_the_archives_number_of_workers_wins_unless_another_is_asked_for(
    served: Running, store: Path, tmp_path: Path
) -> None:
    mar.seal(quadrant.make(tmp_path, "pair", workers=2), store)
    served.management.register("pair.mar")
    assert len(served.pids("pair")) == 2
    served.management.unregister("pair")
    served.management.register("pair.mar", initial_workers=1)
    assert len(served.pids("pair")) == 1
    served.management.unregister("pair")


def test_an_archive_whose_requests_do_not_wait(
    served: Running, store: Path, tmp_path: Path
) -> None:
    artifact = quadrant.make(tmp_path, "instant", max_batch_delay_ms=0)
    sealed = mar.seal(artifact, store)
    # A server that loads it by itself waits as little as it can be told to.
    with zipfile.ZipFile(sealed.path) as packed:
        assert "maxBatchDelay: 1" in packed.read("model-config.yaml").decode()
    served.management.register("instant.mar", settings=registration(sealed.path))
    (entry,) = served.management.describe("instant")
    assert (entry["maxBatchDelay"], entry["batchSize"]) == (0, 8)
    reply = served.inference.predict("instant", quadrant.picture(2), "image/png")
    assert reply["predictions"][0]["index"] == 2
    served.management.unregister("instant")
    assert registration(store / "quadrant.mar") == {}
    assert registration(store / "nothing.mar") == {}


def test_describe_customized_returns_labels_schemas_and_report(served: Running) -> None:
    (entry,) = served.management.describe("quadrant", customized=True)
    told = entry["customizedMetadata"]
    assert told["name"] == "quadrant"
    assert told["labels"] == quadrant.LABELS
    assert told["report"].items() >= quadrant.report().items()
    assert told["report"]["files"].keys() >= {"model.pt", "samples/0.png"}
    reply = served.inference.predict("quadrant", quadrant.picture(1), "image/png")
    jsonschema.validate(reply, told["output"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"predictions": [{"label": 3}]}, told["output"])


def test_versions_stand_side_by_side_and_the_default_can_change(
    served: Running, tmp_path: Path
) -> None:
    artifact = quadrant.make(tmp_path, "twin")
    store = served.workdir / "model_store"
    assert mar.seal(artifact, store, "1.0").version == "1.0"
    served.management.register("twin.mar")
    card = json.loads((artifact / "model.json").read_text())
    card["labels"] = [label.upper() for label in quadrant.LABELS]
    quadrant.write(artifact / "model.json", card)
    mar.seal(artifact, store, "2.0")
    served.management.register("twin.mar")

    def label(version: str | None = None) -> str:
        answer = served.inference.predict("twin", quadrant.picture(3), "image/png", version)
        return str(answer["predictions"][0]["label"])

    assert (label(), label("1.0"), label("2.0")) == (
        "bottom right",
        "bottom right",
        "BOTTOM RIGHT",
    )
    served.management.set_default("twin", "2.0")
    assert label() == "BOTTOM RIGHT"
    with pytest.raises(Conflict, match="already registered"):
        served.management.register("twin.mar")
    with pytest.raises(Refused, match="default version"):
        served.management.unregister("twin", "2.0")
    served.management.unregister("twin", "1.0")
    versions = [e["modelVersion"] for e in served.management.describe("twin", "all")]
    assert versions == ["2.0"]
    served.management.unregister("twin")
    assert "twin" not in served.management.models()
    assert (store / "twin.mar").is_file(), "unregistering must not delete the archive"


def test_scale_up_and_down(served: Running) -> None:
    before = served.pids("quadrant")
    served.management.scale("quadrant", 2)
    assert len(served.pids("quadrant")) == 2
    served.management.scale("quadrant", 1)
    assert served.pids("quadrant") == before, "the first worker must outlive the second"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "x"}])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_wrong_token_is_refused(served: Running, header: dict[str, str], method: str) -> None:
    path = "/models/quadrant" if method == "DELETE" else "/models?url=quadrant.mar"
    reply = requests.request(method, served.settings.management + path, headers=header, timeout=10)
    assert (reply.status_code, reply.json()["type"]) == (400, "InvalidKeyException")
    reply = requests.post(
        served.settings.inference + "/predictions/quadrant", quadrant.picture(0), headers=header
    )
    assert (reply.status_code, reply.json()["type"]) == (400, "InvalidKeyException")


def test_the_inference_key_does_not_open_the_management_api(served: Running) -> None:
    reply = requests.get(
        served.settings.management + "/models", headers=served.header("inference"), timeout=10
    )
    assert reply.json()["type"] == "InvalidKeyException"


def test_the_client_says_that_a_token_is_wrong(served: Running, tmp_path: Path) -> None:
    keys = json.loads((served.workdir / "key_file.json").read_text())
    for entry in keys.values():
        entry["key"] = "AAAAAAAA"
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    tokens = Tokens(tmp_path / "key_file.json", served.settings.management)
    with pytest.raises(TokenRefused, match="key file"):
        Management(served.settings.management, tokens).models()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/quadrant.mar",
        "https://example.org/quadrant.mar",
        "file:///tmp/quadrant.mar",
        "FILE:///tmp/quadrant.mar",
        "../model_store/quadrant.mar",
        "file:///tmp/%2e%2e/quadrant.mar",
    ],
)
def test_a_url_outside_the_model_store_is_refused(served: Running, url: str) -> None:
    with pytest.raises(UrlRefused, match="Only archives in the model store"):
        served.management.register(url)


def test_an_archive_in_the_store_is_not_reached_by_its_file_url(served: Running) -> None:
    """The allow-list is about addresses: a file of the store goes by its plain name."""
    inside = (served.workdir / "model_store" / "quadrant.mar").as_uri()
    with pytest.raises(UrlRefused):
        served.management.register(inside)


@pytest.mark.parametrize("url", ["nothing.mar", "(?!)", "/etc/passwd", "ftp://host/x.mar"])
def test_an_archive_that_is_not_there_is_not_found(served: Running, url: str) -> None:
    with pytest.raises(ModelNotFound, match="not found"):
        served.management.register(url)


def test_an_unknown_model_or_version_is_not_found(served: Running) -> None:
    with pytest.raises(ModelNotFound, match="nobody"):
        served.management.describe("nobody")
    with pytest.raises(ModelNotFound, match="version: 9"):
        served.management.describe("quadrant", "9")
    with pytest.raises(ModelNotFound):
        served.management.unregister("nobody")
    with pytest.raises(ModelNotFound):
        served.inference.predict("nobody", b"")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (FAILING, "nothing but trouble"),
        (MISSING_IMPORT, "No module named 'no_such_package_at_all'"),
    ],
)
def test_a_worker_that_cannot_start_shows_its_own_traceback(
    served: Running, tmp_path: Path, source: str, reason: str
) -> None:
    artifact = quadrant.make(tmp_path, "broken")
    card = json.loads((artifact / "model.json").read_text())
    quadrant.write(artifact / "model.json", {**card, "handler": "broken"})
    handlers = tmp_path / "handlers"
    handlers.mkdir()
    (handlers / "__init__.py").touch()
    (handlers / "broken.py").write_text(source)
    mar.seal(artifact, served.workdir / "model_store", handlers=handlers)
    with pytest.raises(WorkerDied, match=reason):
        served.management.register("broken.mar")
    assert "broken" not in served.management.models()
