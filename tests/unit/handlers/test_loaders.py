"""What a worker says when another runtime's file cannot be loaded."""

import json
import os
import sys
import time

import pytest
import torch

from handlers.backend import load_model
from handlers.card import read_card
from handlers.errors import ModelError


def folder_with(colours, tmp_path, file, content=b"nothing"):
    card = json.loads((colours / "model.json").read_text())
    card["model"]["file"] = file
    (tmp_path / "model.json").write_text(json.dumps(card))
    (tmp_path / file).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(("file", "package"), [("m.onnx", "onnxruntime"), ("m.xml", "openvino")])
def test_a_missing_runtime_is_named(colours, tmp_path, monkeypatch, file, package):
    monkeypatch.setitem(sys.modules, package, None)
    folder = folder_with(colours, tmp_path, file)
    with pytest.raises(ModelError, match=f"pip install {package}"):
        load_model(folder, read_card(folder))


def test_openvino_weights_must_travel_too(colours, tmp_path):
    pytest.importorskip("openvino")
    folder = folder_with(colours, tmp_path, "m.xml")
    with pytest.raises(ModelError, match=r"m\.bin is missing"):
        load_model(folder, read_card(folder))


@pytest.mark.parametrize("file", ["m.onnx", "m.pt2", "m.xml"])
def test_a_broken_file_is_a_model_error(colours, tmp_path, file):
    if file == "m.xml":
        pytest.importorskip("openvino")
        (tmp_path / "m.bin").write_bytes(b"")
    elif file == "m.onnx":
        pytest.importorskip("onnxruntime")
    folder = folder_with(colours, tmp_path, file)
    with pytest.raises(ModelError, match=file):
        load_model(folder, read_card(folder))


def test_an_unknown_suffix_lists_the_known(colours, tmp_path):
    folder = folder_with(colours, tmp_path, "m.safetensors")
    with pytest.raises(ModelError, match=r"\.onnx, \.pt, \.pt2, \.xml"):
        load_model(folder, read_card(folder))


def test_openvino_runs_in_the_calling_thread_and_binds_none_to_a_core(colours, tmp_path):
    """Workers whose threads are bound to the first core share that one."""
    openvino = pytest.importorskip("openvino")
    model = openvino.convert_model(
        torch.nn.Linear(512, 512).eval(), example_input=torch.ones(1, 512)
    )
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    folder = folder_with(colours, tmp_path, "m.xml", (tmp_path / "m.xml").read_bytes())
    predict = load_model(folder, read_card(folder))
    everywhere = os.sched_getaffinity(0)
    row = torch.ones(256, 512)
    predict(row)
    before, own = time.process_time(), time.thread_time()
    for _ in range(50):
        predict(row)
        assert os.sched_getaffinity(0) == everywhere
    spent = time.thread_time() - own
    assert spent > 0.8 * (time.process_time() - before), "another thread computed"
