"""OpenAI's client asks a model of embeddings."""

import threading
from collections.abc import Iterator

import openai
import pytest

from deploy.archive import mar
from deploy.service.app import build
from deploy.service.server import Server
from tests.integration import quadrant
from tests.unit.deploy.service.client import Client, Loop, Running
from tests.unit.handlers import embedding_artifact

TEXTS = ["a delight", "a waste of an evening"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, loop: Loop) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("embeddings")
    artifact = embedding_artifact.make(folder / "vectors")
    if not (artifact / "report.json").is_file():
        quadrant.write(artifact / "report.json", quadrant.report())
    running = Running(loop)
    running.register(mar.seal(artifact, folder / "store", force=True).path)
    yield running
    running.close()


@pytest.fixture
def asked(models: Running) -> Client:
    return models.client()


@pytest.fixture(scope="module")
def client(models: Running, loop: Loop) -> Iterator[openai.OpenAI]:
    server = Server(build(models.models), "127.0.0.1", 0)
    answering = threading.Thread(target=loop.do, args=(server.answer(),))
    answering.start()
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0) as made:
        yield made
    server.stop()
    answering.join()


def test_vectors_are_those_of_predictions(
    models: Running, asked: Client, client: openai.OpenAI
) -> None:
    (name,) = models.names()
    expected = asked.post(f"/predictions/{name}", json={"text": TEXTS}).json
    for form in ("float", "base64"):
        told = client.embeddings.create(model=name, input=TEXTS, encoding_format=form)
        assert told.usage.total_tokens == sum(one["tokens"] for one in expected)
        assert [one.index for one in told.data] == [0, 1]
        if form == "float":
            for mine, theirs in zip(told.data, expected, strict=True):
                assert mine.embedding == pytest.approx(theirs["embedding"], abs=1e-6)
    # Without a format the client asks for base64, and reads it.
    one = client.embeddings.create(model=name, input=TEXTS[0])
    assert one.data[0].embedding == pytest.approx(expected[0]["embedding"], abs=1e-6)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "a model: one of"),
        ([], "a JSON object"),
        ({"model": "x", "input": [1, 2]}, "tokens are not taken"),
        ({"model": "x", "input": "a", "dimensions": 3}, "'dimensions'"),
    ],
)
def test_what_is_wrong_is_said(asked: Client, body: object, words: str) -> None:
    reply = asked.post("/v1/embeddings", json=body)
    assert reply.status_code == 400
    assert words in reply.json["error"]["message"]


def test_the_client_is_told(models: Running, client: openai.OpenAI) -> None:
    (name,) = models.names()
    with pytest.raises(openai.NotFoundError, match="Model not found: nope"):
        client.embeddings.create(model="nope", input="a")
    with pytest.raises(openai.APIStatusError, match="64"):
        client.embeddings.create(model=name, input=["a"] * 65)
