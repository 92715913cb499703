"""Tensors through TorchServe's own service: every format there and back, and what is refused."""

import io
import json
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from handlers.tensor_json import LENGTH_HEADER
from handlers.tensors import Tensors
from tests.unit.handlers import archive
from tests.unit.handlers.archive import Answer, Worker, body

MAX_BYTES = 20_000
JSON, OCTETS = "application/json", "application/octet-stream"
NPY, NPZ, SAFETENSORS = (f"application/x-{kind}" for kind in ("npy", "npz", "safetensors"))


class Scale(nn.Module):
    """The sum of `values` `[N, time, 3]` times a looked-up weight of `kind` `[N]`, and the kind."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.tensor([[1.0], [10.0], [0.0]]))

    def forward(self, values: Tensor, kind: Tensor) -> tuple[Tensor, Tensor]:
        total = values.sum(1).sum(1) * self.table(kind).squeeze(1)
        return torch.log(total * total) if bool((total < -1000).any()) else total, kind + 1


class Twice(nn.Module):
    """uint8 `[N, 2]` to float32 `[N, 2]`."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.float() * 2
        return torch.where(y == 510, y / 0, y)


def make(folder: Path, model: nn.Module, inputs: list[Any], outputs: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model.eval()).save(str(folder / "model.pt"))
    card = {
        "name": "numbers",
        "task": "tensors",
        "handler": "tensors",
        "labels": [],
        "model": {"file": "model.pt", "quantized_engine": None, "outputs": outputs},
        "input": {"tensors": inputs, "max_bytes": MAX_BYTES, "max_request_values": 3000},
        "serving": {"workers": 1, "batch_size": 4},
    }
    (folder / "model.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="module")
def scale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs, one of a free length, two outputs."""
    return make(
        tmp_path_factory.mktemp("scale"),
        Scale(),
        [
            {"name": "values", "datatype": "FP32", "shape": [-1, -1, 3], "example": [4, 3]},
            {"name": "kind", "datatype": "INT64", "shape": [-1], "range": [0, 2]},
        ],
        [{"name": "total", "datatype": "FP32"}, {"name": "next", "datatype": "INT64"}],
    )


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One input and one output."""
    declared = {"name": "x", "datatype": "UINT8", "shape": [-1, 2], "range": [0, 9]}
    outputs = [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}]
    return make(tmp_path_factory.mktemp("twice"), Twice(), [declared], outputs)


@pytest.fixture(params=["true", "false"], ids=["decoded", "raw"])
def two(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, scale: Path) -> Worker:
    """The model of two inputs, in a service that decodes JSON itself or does not."""
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", request.param)
    return Worker(Tensors(), scale)


@pytest.fixture
def one(twice: Path) -> Worker:
    return Worker(Tensors(), twice)


VALUES = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
KIND = np.array([0, 1])
TOTAL, NEXT = [15.0, 510.0], [1, 2]


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def ask(worker: Worker, value: Any, **headers: str) -> Answer:
    (answer,) = worker.predict(body(json.dumps(value).encode(), JSON, **headers))
    return answer


def send(worker: Worker, data: bytes, kind: str = OCTETS, **headers: str) -> Answer:
    (answer,) = worker.predict(body(data, kind, **headers))
    return answer


def test_nested_lists_by_name(two: Worker) -> None:
    answer = ask(two, {"values": VALUES.tolist(), "kind": [0, 1]})
    assert (answer.status, answer.content_type) == (200, JSON)
    assert answer.json() == {"total": TOTAL, "next": NEXT}
    columns = ask(two, {"inputs": {"values": VALUES.tolist(), "kind": [0, 1]}})
    assert columns.json() == {"outputs": {"total": TOTAL, "next": NEXT}}


def test_rows(two: Worker) -> None:
    rows = [{"values": v.tolist(), "kind": k} for v, k in zip(VALUES, (0, 1), strict=True)]
    answer = ask(two, {"instances": rows})
    assert answer.json() == [{"total": 15.0, "next": 1}, {"total": 510.0, "next": 2}]


def test_kserve_in_json_and_binary(two: Worker) -> None:
    request: dict[str, Any] = {
        "id": "7",
        "inputs": [
            {"name": "kind", "shape": [2], "datatype": "INT64", "data": [0, 1]},
            {"name": "values", "shape": [2, 2, 3], "datatype": "FP32", "data": VALUES.tolist()},
        ],
    }
    answer = ask(two, request).json()
    assert answer["id"] == "7" and answer["model_name"] == "numbers"
    assert answer["outputs"][0] == {
        "name": "total", "datatype": "FP32", "shape": [2], "data": TOTAL,
    }  # fmt: skip
    raw = VALUES.tobytes()
    del request["inputs"][1]["data"]
    request["inputs"][1]["parameters"] = {"binary_data_size": len(raw)}
    request["outputs"] = [{"name": "total", "parameters": {"binary_data": True}}]
    head = json.dumps(request).encode()
    reply = send(two, head + raw, **{LENGTH_HEADER: str(len(head))})
    assert (reply.status, reply.content_type) == (200, OCTETS)
    length = int(reply.headers[LENGTH_HEADER])
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(reply.body[length:], "<f4").tolist() == TOTAL


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(two: Worker, compressed: bool) -> None:
    answer = send(two, npz(compressed, values=VALUES.astype(np.float64), kind=KIND))
    assert (answer.status, answer.content_type) == (200, NPZ)
    found = np.load(io.BytesIO(answer.body))
    assert (found["total"].tolist(), found["next"].tolist()) == (TOTAL, NEXT)


def test_safetensors_and_accept(two: Worker) -> None:
    sent = save({"values": torch.from_numpy(VALUES), "kind": torch.from_numpy(KIND).int()})
    answer = send(two, sent)
    assert (answer.status, answer.content_type) == (200, SAFETENSORS)
    assert load(answer.body)["total"].tolist() == TOTAL
    assert send(two, sent, Accept="application/json").json()["next"] == NEXT
    assert send(two, sent, Accept="text/html, */*").content_type == SAFETENSORS
    assert send(two, sent, Accept="text/html").status == 406
    assert send(two, sent, Accept=NPY).status == 406  # two outputs
    columns = {"values": VALUES.tolist(), "kind": [0, 1]}
    assert np.load(io.BytesIO(ask(two, columns, Accept=NPZ).body))["total"].tolist() == TOTAL


def test_npy_and_a_form(one: Worker, two: Worker) -> None:
    answer = send(one, npy(np.array([[1, 2], [3, 4]], np.uint8)))
    assert (answer.status, answer.content_type) == (200, NPY)
    assert np.load(io.BytesIO(answer.body)).tolist() == [[2, 4], [6, 8]]
    assert send(one, npy(np.asfortranarray([[1, 2], [3, 4]]))).status == 200
    assert ask(one, [[5, 6]]).json() == {"y": [[10.0, 12.0]]}
    parts = [("values", OCTETS, npy(VALUES)), ("kind", "text/plain", b"[0, 1]")]
    (answer,) = two.predict(archive.Sent(parts, {"Content-Type": "multipart/form-data"}))
    assert answer.json() == {"total": TOTAL, "next": NEXT}


def test_a_batch_mixes_lengths_and_a_bad_request_harms_none(two: Worker) -> None:
    def request(rows: int, length: int, kind: int) -> archive.Sent:
        value = {"values": np.ones((rows, length, 3)).tolist(), "kind": [kind] * rows}
        return body(json.dumps(value).encode(), JSON)

    sent = [request(1, 2, 0), request(2, 5, 1), request(1, 2, 7), request(1, 2, 1)]
    answers = two.predict(*sent)
    assert [a.status for a in answers] == [200, 200, 422, 200]
    assert [a.json().get("total") for a in answers] == [[6.0], [150.0, 150.0], None, [60.0]]
    assert "outside what the model takes" in answers[2].json()["message"]


@pytest.mark.parametrize(
    ("value", "status", "kind"),
    [
        ({"values": [[[1, 2, 3]]]}, 400, "unknown_name"),
        ({"values": [[[1, 2, 3]]], "kind": [0], "odd": [1]}, 400, "unknown_name"),
        ({"values": [[[1, 2]]], "kind": [0]}, 422, "bad_shape"),
        ({"values": [[[1, 2, 3]]], "kind": [0, 1]}, 422, "bad_shape"),
        ({"values": [], "kind": []}, 422, "bad_shape"),
        ({"values": [[[1, 2, 3]]], "kind": [0.5]}, 422, "bad_type"),
        ({"values": [[[1, 2, 3]]], "kind": [True]}, 422, "bad_type"),
        ({"values": [[[1, 2, 3e39]]], "kind": [0]}, 422, "bad_value"),
        ({"values": [[[1, 2, float("nan")]]], "kind": [0]}, 422, "bad_value"),
        ({"values": [[[1, 2, "3"]]], "kind": [0]}, 400, "bad_array"),
        ({"values": [[[1, 2, 3], [4]]], "kind": [0]}, 400, "bad_array"),
        ({"values": [[[1, 2, 3]]], "kind": [1 << 70]}, 422, "bad_value"),
        ({"values": [[[0, 0, 0]] * 1001], "kind": [0]}, 413, "too_costly"),
        ([[1, 2, 3]], 400, "bad_json"),
        ({"instances": [{"kind": 0}, {"values": []}]}, 400, "bad_json"),
        ({"inputs": [{"name": "kind", "shape": [0], "datatype": "INT64"}]}, 422, "bad_shape"),
        ({"inputs": [{"name": "kind", "shape": [1], "datatype": "BYTES"}]}, 400, "bad_json"),
        ({"inputs": [{"name": "kind", "shape": [1], "datatype": "INT64"}]}, 400, "bad_json"),
    ],
)
def test_json_that_does_not_fit(two: Worker, value: Any, status: int, kind: str) -> None:
    answer = ask(two, value)
    assert (answer.status, answer.json()["type"]) == (status, kind), answer.body


def bomb() -> bytes:
    """An .npz of a few kilobytes that unpacks to a megabyte, under a header that says less."""
    packed = bytearray(npz(True, values=np.zeros((1, 1 << 16, 3), np.float32), kind=KIND))
    at = packed.index(b"PK\x01\x02")
    packed[at + 24 : at + 28] = struct.pack("<I", 100)
    return bytes(packed)


def many_entries() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive_:
        for number in range(100):
            archive_.writestr(str(number), b"")
    return stream.getvalue()


BAD_FILES = {
    "objects": (npz(values=np.array([{}], object), kind=KIND), 400, "bad_array"),
    "text": (npz(values=np.array(["a"]), kind=KIND), 400, "bad_array"),
    "cut": (npz(values=VALUES, kind=KIND)[:-60], 400, "bad_array"),
    "no_zip": (b"PK\x03\x04" + bytes(50), 400, "bad_array"),
    "bomb": (npz(True, values=np.zeros((1, 1 << 16, 3), np.float32), kind=KIND), 413,
             "too_many_bytes"),
    "lying": (bomb(), 400, "bad_array"),
    "entries": (many_entries(), 400, "bad_array"),
    "large": (npz(values=np.zeros((1, 1 << 14, 3), np.float32), kind=KIND), 413, "too_many_bytes"),
    "one": (npy(KIND), 400, "bad_array"),
    "safetensors": (struct.pack("<Q", 20) + b'{"values": 1}       ', 400, "bad_array"),
    "unlike": (b"\x00\x01\x02", 400, "bad_array"),
    "nan": (npz(values=np.full((1, 1, 3), np.nan), kind=KIND[:1]), 422, "bad_value"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_do_not_fit(two: Worker, name: str) -> None:
    data, status, kind = BAD_FILES[name]
    answer = send(two, data)
    assert (answer.status, answer.json()["type"]) == (status, kind), answer.body


def test_an_npy_header_that_promises_more_is_refused_unread(one: Worker) -> None:
    whole = npy(np.zeros((1, 2), np.uint8))
    answer = send(one, whole.replace(b"(1, 2)", b"(9, 9)"))
    assert answer.status == 400 and "promises 81 values" in answer.json()["message"]


def test_other_types_and_empty_bodies(one: Worker) -> None:
    assert send(one, b"<x/>", "text/xml").status == 415
    assert send(one, b"", OCTETS).json()["type"] == "empty_input"
    assert send(one, b"[[1, 2", JSON).json()["type"] == "bad_json"


def test_infinity_has_no_json_but_an_array(one: Worker) -> None:
    answer = ask(one, [[255, 1]])
    assert (answer.status, answer.json()["type"]) == (500, "not_finite")
    found = np.load(io.BytesIO(send(one, npy(np.array([[255, 1]], np.uint8))).body))
    assert np.isinf(found[0, 0]) and found[0, 1] == 2


def test_more_rows_than_one_call_takes(one: Worker) -> None:
    one.handler.most_rows = 7
    answer = ask(one, [[n % 9, 0] for n in range(100)]).json()["y"]
    assert [row[0] for row in answer] == [n % 9 * 2.0 for n in range(100)]


def test_describe_names_tensors(scale: Path) -> None:
    handler = Worker(Tensors(), scale).handler
    described = handler.describe_handle()["input"]["x-tensors"]
    assert described["inputs"][0] == {"name": "values", "datatype": "FP32", "shape": [-1, -1, 3]}
    assert [entry["name"] for entry in described["outputs"]] == ["total", "next"]
    assert described["max_request_values"] == 3000
