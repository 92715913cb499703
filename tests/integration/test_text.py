"""Texts on a real TorchServe: predictions and explanations over HTTP, an artifact made here."""

from collections.abc import Iterator

import pytest
import requests

from deploy.archive import mar
from deploy.errors import Refused
from tests.integration.torchserve import Running
from tests.unit.handlers import text_artifact

PLAIN = "text/plain; charset=utf-8"


@pytest.fixture(scope="module")
def server(served: Running) -> Iterator[Running]:
    """The session's server with `texts` beside the other models."""
    artifact = text_artifact.make(served.workdir / "artifacts" / "texts")
    mar.seal(artifact, served.workdir / "model_store")
    served.management.register("texts.mar")
    yield served
    served.management.unregister("texts")


def test_plain_text_and_json_are_answered_alike(server: Running) -> None:
    text = "A touching, well acted film."
    one = server.inference.predict("texts", text.encode(), PLAIN)
    other = server.inference.predict("texts", f'{{"text": "{text}"}}'.encode(), "application/json")
    assert one == other
    assert {p["label"] for p in one["predictions"]} == {"negative", "positive"}
    assert sum(p["probability"] for p in one["predictions"]) == pytest.approx(1)


def test_a_header_sets_top_k(server: Running) -> None:
    found = server.inference.predict("texts", b"fine", PLAIN, params={"top_k": "1"})
    assert len(found["predictions"]) == 1


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [(b"caf\xe9", 400, "not_utf8"), (b"   ", 422, "empty_text")],
)
def test_what_is_no_text_is_refused(
    server: Running, content: bytes, status: int, kind: str
) -> None:
    with pytest.raises(Refused) as caught:
        server.inference.predict("texts", content, PLAIN)
    assert (caught.value.status, caught.value.kind) == (status, kind)


def test_explanations_have_a_place_of_their_own(server: Running) -> None:
    found = []
    for _ in range(2):
        reply = requests.post(
            f"{server.settings.inference}/explanations/texts",
            data=b"A touching film.",
            headers={**server.header(), "Content-Type": PLAIN},
            timeout=30,
        )
        assert reply.status_code == 200, reply.text
        found.append(reply.json())
    assert found[0] == found[1]
    words = found[0]["explanation"]["words"]
    assert [word["text"] for word in words] == ["A", "touching", "film", "."]
