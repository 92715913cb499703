"""The list of models and their state, page by page and worker by worker."""

import shutil
import time

import pytest
import torch

from deploy.archive import mar
from tests.integration import quadrant
from tests.unit.deploy.service.client import Running


@pytest.fixture(scope="module")
def models(tmp_path_factory, loop):
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("describe")
    loaded = Running(loop)
    for name in ("one", "three", "two"):
        artifact = quadrant.make(folder / "artifacts", name=name)
        loaded.register(mar.seal(artifact, folder / "store").path)
        shutil.rmtree(artifact)
    yield loaded
    loaded.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def client(models):
    return models.client()


@pytest.mark.parametrize(
    ("query", "names", "following"),
    [
        ("", ["one", "three", "two"], None),
        ("?limit=2", ["one", "three"], "2"),
        ("?limit=2&next_page_token=2", ["two"], None),
        ("?limit=x&next_page_token=-1", ["one", "three", "two"], None),
        ("?next_page_token=9", [], None),
    ],
)
def test_the_list_comes_in_pages(client, query, names, following):
    page = client.get(f"/models{query}").json
    assert [entry["modelName"] for entry in page["models"]] == names
    assert page.get("nextPageToken") == following


def test_health_counts_the_workers_that_answer(client, models):
    assert client.get("/ping").json == {"status": "Healthy"}
    model = models.get("two")
    model.min_workers = 5  # as while workers start
    try:
        assert client.get("/ping").json == {"status": "Partial Healthy"}
        assert client.get("/v2/health/ready").status_code == 503
    finally:
        model.min_workers = 1
    assert client.get("/v2/health/ready").status_code == 200


def test_a_model_without_workers_is_described_and_not_ready(client, models):
    model = models.get("two")
    models.scale(model, 0)
    deadline = time.monotonic() + 10
    while model.pool.slots and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        (entry,) = client.get("/models/two").json
        assert (entry["minWorkers"], entry["workers"]) == (0, [])
        assert client.get("/v2/models/two/ready").status_code == 503
        (state,) = client.get("/v1/models/two").json["model_version_status"]
        assert state["state"] == "END"
    finally:
        models.scale(model, 1)
    (entry,) = client.get("/models/two").json
    assert [worker["status"] for worker in entry["workers"]] == ["READY"]
    assert client.get("/v2/models/two/ready").json == {"name": "two", "ready": True}
