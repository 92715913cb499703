import struct
import tracemalloc

import numpy as np
import pytest

from deploy.service import binary, tensors
from deploy.service.failure import Failure
from deploy.service.tensors import Tensor
from handlers.payload import MAX_INPUTS


def test_the_top_labels_become_one_list_per_key():
    answer = {"predictions": [{"label": "a", "index": 0}, {"label": "b", "index": 1}]}
    assert tensors.outputs(answer) == {"label": ["a", "b"], "index": [0, 1]}


def test_labels_beside_other_things_are_still_tensors():
    """As a text's answer is: the best labels, and how many windows it took."""
    text = {
        "predictions": [
            {"label": "good", "index": 1, "probability": 0.75},
            {"label": "bad", "index": 0, "probability": 0.25},
        ],
        "labels": ["good"],
        "windows": 2,
    }
    named = tensors.outputs(text)
    assert named == {
        "label": ["good", "bad"],
        "index": [1, 0],
        "probability": [0.75, 0.25],
        "labels": ["good"],
        "windows": 2,
    }
    columns = tensors.columns([named, named])
    stacked = [tensors.stacked(name, values) for name, values in columns.items()]
    assert [(t.name, t.kind, t.shape) for t in stacked] == [
        ("label", "BYTES", (2, 2)),
        ("index", "INT64", (2, 2)),
        ("probability", "FP32", (2, 2)),
        ("labels", "BYTES", (2, 1)),
        ("windows", "INT64", (2,)),
    ]


def test_other_answers():
    assert tensors.outputs({"text": "hi", "seconds": 1.5, "words": [{"w": "hi"}]}) == {
        "text": "hi",
        "seconds": 1.5,
        "words": '[{"w": "hi"}]',
    }
    assert tensors.outputs([1, 2]) == {"output": [1, 2]}
    assert tensors.outputs("yes") == {"output": "yes"}
    assert tensors.outputs({"ragged": [[1], [1, 2]]}) == {"ragged": "[[1], [1, 2]]"}
    assert tensors.outputs({"none": None}) == {"none": "null"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[1, 2], [3, 4]], Tensor("x", "INT64", (2, 2), [1, 2, 3, 4])),
        ([[0.5], [1]], Tensor("x", "FP32", (2, 1), [0.5, 1.0])),
        (["a", "b"], Tensor("x", "BYTES", (2,), ["a", "b"])),
        ([True, False], Tensor("x", "BOOL", (2,), [True, False])),
        ([[1], [1, 2]], Tensor("x", "BYTES", (2,), ["[1]", "[1, 2]"])),
        ([1, None], Tensor("x", "BYTES", (2,), ["1", "null"])),
        ([1, "a"], Tensor("x", "BYTES", (2,), ["1", "a"])),
    ],
)
def test_stacked(values, expected):
    assert tensors.stacked("x", values) == expected


def entry(kind, shape, **more):
    return {"name": "data", "datatype": kind, "shape": shape, **more}


@pytest.mark.parametrize("kind", ["UINT8", "INT16", "INT64", "FP16", "FP32", "FP64"])
def test_numbers_in_binary(kind):
    array = np.arange(6).reshape(2, 1, 3).astype(binary._TYPES[kind])
    rows = binary.rows(entry(kind, [2, 1, 3]), memoryview(array.tobytes()))
    assert rows == [[[0, 1, 2]], [[3, 4, 5]]]
    assert isinstance(rows[0][0][0], float if kind.startswith("F") else int)


def test_bfloat16_in_binary():
    raw = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    assert binary.rows(entry("BF16", [2, 1]), memoryview(raw)) == [[1.5], [-2.0]]


def test_bytes_in_binary():
    raw = b"".join(struct.pack("<I", len(b)) + b for b in (b"one", b"", b"\xff\x00"))
    assert binary.rows(entry("BYTES", [3, 1]), memoryview(raw)) == [b"one", b"", b"\xff\x00"]


@pytest.mark.parametrize(
    ("described", "raw"),
    [
        (entry("FP8", [1], data=[1]), None),
        (entry("UINT8", [], data=[1]), None),
        (entry("UINT8", "1", data=[1]), None),
        (entry("UINT8", [-1], data=[1]), None),
        (entry("UINT8", [True], data=[1]), None),
        (entry("UINT8", [2], data=[1]), None),
        (entry("UINT8", [1], data=["a"]), None),
        (entry("UINT8", [1], data=[1.5]), None),
        (entry("UINT8", [1], data=[True]), None),
        (entry("BOOL", [1], data=[1]), None),
        (entry("BYTES", [1], data=[1]), None),
        (entry("UINT8", [1]), None),
        (entry("UINT8", [2], data=[1, [2]]), None),
        (entry("FP32", [1]), b"\x00" * 3),
        (entry("BYTES", [1]), b"\x05\x00\x00\x00abc"),
        (entry("BYTES", [1]), b"\x05\x00"),
        (entry("BYTES", [2]), b"\x01\x00\x00\x00a"),
    ],
)
def test_what_does_not_add_up_is_refused(described, raw):
    with pytest.raises(Failure) as caught:
        binary.rows(described, None if raw is None else memoryview(raw))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "shape",
    [
        [0],
        [1, 0],
        [2**31 - 1, 0],
        [1] * 9,
        [1, 2**31],
        [1, 10**4000, 10**4000],
        [MAX_INPUTS + 1, 1],
        [2**31 - 1] * 8,
    ],
    ids=range(8),
)
@pytest.mark.parametrize("raw", [None, memoryview(b"")], ids=["json", "binary"])
@pytest.mark.parametrize("kind", ["FP32", "BYTES"])
def test_a_shape_that_no_model_takes_makes_nothing(kind, shape, raw):
    tracemalloc.start()
    try:
        with pytest.raises(Failure) as caught:
            binary.rows(entry(kind, shape, data=[]), raw)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
    assert caught.value.status == 422


@pytest.mark.parametrize("length", ["-1", "x", "99", "", "1" * 5000])
def test_a_header_length_beyond_the_body_is_refused(length):
    with pytest.raises(Failure):
        binary.split(b"{}", length)


def test_encoded_tensors_are_what_they_were():
    array = Tensor("x", "FP32", (2, 2), [0.5, 1.0, 2.0, -3.0])
    decoded = binary.rows(entry("FP32", [2, 2]), memoryview(binary.encode(array)))
    assert decoded == [[0.5, 1.0], [2.0, -3.0]]
    texts = Tensor("x", "BYTES", (2,), ["č", ""])
    assert binary.rows(entry("BYTES", [2]), memoryview(binary.encode(texts))) == [
        "č".encode(),
        b"",
    ]


def test_answers_that_are_no_json() -> None:
    assert tensors.value(b'{"a": [1]}') == {"a": [1]}
    assert tensors.value("h\u00e9llo".encode()) == "h\u00e9llo"
    with pytest.raises(Failure, match="ask it at /predictions"):
        tensors.value(b"\xff\x00")
    told = tensors.refusal(404, b'{"type": "gone", "message": "no such row"}')
    assert (told.status, told.type, told.message) == (404, "gone", "no such row")
    assert tensors.refusal(400, b"[1]").message == "[1]"
    assert tensors.refusal(400, b"\xff").status == 400
