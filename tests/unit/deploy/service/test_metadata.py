"""What models say about themselves, asked of real archives."""

from types import SimpleNamespace

import pytest
import torch

from deploy.archive import mar
from deploy.service import metadata
from deploy.service.failure import Failure
from deploy.service.tensors import Tensor
from handlers.predictions import one_or_many, prediction
from tests.integration import countdown, quadrant
from tests.unit.deploy.service.client import Running


@pytest.fixture(scope="module")
def models(tmp_path_factory, loop):
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("metadata")
    loaded = Running(loop)
    loaded.register(mar.seal(quadrant.make(folder / "artifacts"), folder / "store").path)
    loaded.register(countdown.seal(folder / "artifacts", folder / "store"))
    yield loaded
    loaded.close()
    torch.set_num_threads(threads)


def test_tensors_are_those_of_the_handlers_schemas(models, loop):
    inputs, outputs = loop.do(metadata.signature(models.get("quadrant")))
    assert inputs == [Tensor("data", "BYTES", (-1,), [])]
    assert outputs == [
        Tensor("label", "BYTES", (-1, -1), []),
        Tensor("index", "INT64", (-1, -1), []),
        Tensor("probability", "FP32", (-1, -1), []),
    ]
    assert not loop.do(metadata.takes_text(models.get("quadrant")))


def test_a_texts_labels_are_tensors_beside_what_else_it_answers(loop):
    one = {
        "required": ["predictions", "windows"],
        "properties": {
            "predictions": {"type": "array", "items": prediction(2)},
            "windows": {"type": "integer"},
            "explanation": {"type": "object"},
        },
    }
    text = {"input": {"properties": {"text": {}}}, "output": one_or_many(one)}
    _, outputs = loop.do(metadata.signature(SimpleNamespace(described=text)))
    assert [(t.name, t.kind, t.shape) for t in outputs] == [
        ("label", "BYTES", (-1, -1)),
        ("index", "INT64", (-1, -1)),
        ("probability", "FP32", (-1, -1)),
        ("windows", "INT64", (-1,)),
    ]


def test_a_handler_without_schemas_has_one_input_and_one_output(models, loop):
    model = models.get("countdown")
    assert loop.do(metadata.description(model))["input"] == {}
    assert loop.do(metadata.signature(model)) == (
        [Tensor("data", "BYTES", (-1,), [])],
        [Tensor("output", "BYTES", (-1,), [])],
    )


def test_a_model_is_asked_once_and_answers_without_workers_from_then_on(models, loop):
    model = models.get("quadrant")
    models.scale(model, 0)
    try:
        model.described = None
        with pytest.raises(Failure, match="no worker of quadrant described it") as caught:
            loop.do(metadata.description(model))
        assert caught.value.status == 500
        models.scale(model, 1)
        first = loop.do(metadata.description(model))
        assert first["name"] == "quadrant"
        models.scale(model, 0)
        assert loop.do(metadata.description(model)) is first
    finally:
        models.scale(model, 1)
