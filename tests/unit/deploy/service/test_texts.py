"""A text model behind TensorFlow Serving's and KServe's routes: labels are tensors there, too."""

from itertools import chain

import pytest
import torch

from deploy.archive import mar
from tests.integration import quadrant
from tests.unit.deploy.service.client import Running
from tests.unit.handlers import text_artifact

TEXTS = ["a delight", "a waste of an evening"]


@pytest.fixture(scope="module")
def client(tmp_path_factory, loop):
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    folder = tmp_path_factory.mktemp("texts")
    artifact = text_artifact.make(folder / "texts")
    quadrant.write(artifact / "report.json", quadrant.report())
    models = Running(loop)
    models.register(mar.seal(artifact, folder / "store").path)
    yield models.client()
    models.close()
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


@pytest.fixture(scope="module")
def expected(client):
    """The answers of TorchServe's route."""
    return [
        client.post("/predictions/texts", data=text, content_type="text/plain").json
        for text in TEXTS
    ]


def column(answers, key):
    return [[entry[key] for entry in answer["predictions"]] for answer in answers]


def test_tensorflow_serving(client, expected):
    rows = client.post("/v1/models/texts:predict", json={"instances": TEXTS}).json["predictions"]
    for key in ("label", "index", "probability"):
        assert [row[key] for row in rows] == [
            pytest.approx(values) if key == "probability" else values
            for values in column(expected, key)
        ]
    assert [row["windows"] for row in rows] == [1, 1]


def test_kserve(client, expected):
    tensor = {"name": "text", "datatype": "BYTES", "shape": [2], "data": TEXTS}
    answer = client.post("/v2/models/texts/infer", json={"inputs": [tensor]}).json
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["shape"] == [2, 2]
    assert outputs["label"]["data"] == list(chain.from_iterable(column(expected, "label")))
    assert outputs["index"]["datatype"] == "INT64"
    assert outputs["probability"]["data"] == pytest.approx(
        list(chain.from_iterable(column(expected, "probability")))
    )
    declared = client.get("/v2/models/texts").json["outputs"]
    assert [one["name"] for one in declared] == list(outputs)
