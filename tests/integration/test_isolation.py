"""Bad requests amid good ones, in real batches: each gets its own answer, no worker dies."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests

from tests.integration import quadrant
from tests.integration.torchserve import Running
from tests.unit.corpus import malformed_bodies

CLIENTS = 16


@dataclass(frozen=True)
class Shot:
    """One request; `label` is None for a bad one."""

    name: str
    content_type: str | None
    body: bytes
    label: int | None = None


def test_bad_requests_harm_nobody(served: Running) -> None:
    bad = [Shot(name, kind, body) for name, kind, body in malformed_bodies()]
    assert len(bad) >= 200
    shots = []
    for index, shot in enumerate(bad):
        label = index % 4
        good = Shot("good", "image/png", quadrant.picture(label), label)
        shots += [good, shot]
    pids = served.pids("quadrant")
    alone = {shot.name: send(served, shot).status_code for shot in bad}
    batches, requests_before = batch_figures(served)
    with ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda shot: send(served, shot), shots))
    batches, items = (
        after - before
        for after, before in zip(batch_figures(served), (batches, requests_before), strict=True)
    )
    for shot, reply in zip(shots, replies, strict=True):
        if shot.label is not None:
            assert reply.status_code == 200, reply.text
            assert reply.json()["predictions"][0]["index"] == shot.label
            continue
        assert 400 <= reply.status_code < 500, (shot.name, reply.status_code, reply.text)
        assert reply.status_code == alone[shot.name], shot.name
        error = reply.json()
        assert error["code"] == reply.status_code, shot.name
        assert error["type"] and error["message"], shot.name
    assert served.pids("quadrant") == pids, "a worker was restarted"
    assert items > 1.2 * batches, f"{items} pictures in {batches} batches: nothing was batched"


def send(served: Running, shot: Shot) -> requests.Response:
    """POST one shot on a connection of its own."""
    headers = served.header()
    if shot.content_type is not None:
        headers["Content-Type"] = shot.content_type
    return requests.post(
        served.settings.inference + "/predictions/quadrant",
        data=shot.body,
        headers=headers,
        timeout=60,
    )


def batch_figures(served: Running) -> tuple[float, float]:
    """How many batches the worker ran, and over how many pictures."""
    text = requests.get(served.settings.metrics + "/metrics", timeout=10).text
    figures = {
        part: sum(
            float(n)
            for n in re.findall(
                rf'marpress_batch_size_{part}{{ModelName="quadrant".*}} (\S+)', text
            )
        )
        for part in ("count", "sum")
    }
    return figures["count"], figures["sum"]
