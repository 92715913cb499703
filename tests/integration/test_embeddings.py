"""Embeddings on a real TorchServe: texts to vectors over HTTP, an artifact made here."""

from collections.abc import Iterator

import numpy as np
import pytest

from deploy import samples
from deploy.archive import mar
from deploy.errors import Refused, Unproven
from deploy.samples import Sample
from tests.integration.torchserve import Running
from tests.unit.handlers import embedding_artifact

PLAIN = "text/plain; charset=utf-8"
JSON = "application/json"


@pytest.fixture(scope="module")
def server(served: Running) -> Iterator[Running]:
    """The session's server with `vectors` beside the other models."""
    artifact = embedding_artifact.make(served.workdir / "artifacts" / "vectors")
    mar.seal(artifact, served.workdir / "model_store")
    served.management.register("vectors.mar")
    yield served
    served.management.unregister("vectors")


def test_texts_become_vectors_of_length_one(server: Running) -> None:
    one = server.inference.predict("vectors", "naïve café 🦊".encode(), PLAIN)
    many = server.inference.predict("vectors", '{"input": ["naïve café 🦊", "b"]}'.encode(), JSON)
    assert np.linalg.norm(one["embedding"]) == pytest.approx(1, abs=1e-6)
    assert many[0]["embedding"] == pytest.approx(one["embedding"], abs=1e-5)
    assert len(many) == 2 and len(many[1]["embedding"]) == embedding_artifact.WIDTH


def test_a_text_without_words_is_refused(server: Running) -> None:
    with pytest.raises(Refused) as caught:
        server.inference.predict("vectors", b"   ", PLAIN)
    assert (caught.value.status, caught.value.kind) == (422, "empty_text")


def test_a_sample_proves_which_document_is_nearest(server: Running) -> None:
    """What `deploy serve` asks: a text is nearest to itself, and a wrong label is noticed."""
    body = '{"text": "a red fox", "documents": ["the stock market", "a red fox", "seven"]}'
    path = server.workdir / "query_0.json"
    path.write_text(body)

    def predict(_: object) -> object:
        return server.inference.predict("vectors", body.encode(), JSON)

    (asked,) = samples.ask([Sample(path, "a red fox")], predict, {})
    assert asked.right
    with pytest.raises(Unproven, match=r"query_0\.json is 'seven', not 'a red fox'"):
        samples.ask([Sample(path, "seven")] * 2, predict, {})
