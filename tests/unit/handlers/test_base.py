import ast
import gc
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from handlers.base import BaseHandler
from handlers.budget import Budget
from handlers.errors import ModelError, RequestError
from handlers.image_classifier import ImageClassifier
from handlers.speech_recognizer import SpeechRecognizer
from handlers.text_classifier import TextClassifier
from tests.unit.handlers import archive


class Doubler(BaseHandler):
    """Doubles small whole numbers; each kind of failure has its number."""

    task = "image_classification"
    parameters = ("times",)

    def setup(self):
        self.batches = []

    def preprocess(self, request):
        request.integer("times", 2, 1, 9)
        values = [int(entry.value) for entry in request.inputs]
        if 666 in values:
            raise KeyError("a bug in preprocess")
        if 400 in values:
            raise RequestError(400, "too_round", "400 is too round")
        return values

    def inference(self, inputs):
        self.batches.append(list(inputs))
        if 500 in inputs:
            raise ZeroDivisionError("a bug in inference")
        if 507 in inputs:
            torch.empty(1 << 50)
        if 508 in inputs:
            raise MemoryError
        if 422 in inputs:
            raise RequestError(422, "impossible", "cannot double 422")
        if 1 in inputs and len(inputs) > 1:
            return inputs[:-1]
        return [2 * value for value in inputs]

    def postprocess(self, request, results):
        if 1554 in results:
            return {"value": float("nan")}
        if 1556 in results:
            return {"value": torch.tensor(1)}
        return {"value": results if request.many else results[0]}


@pytest.fixture
def doubler(colours):
    handler = Doubler()
    properties = {"model_dir": str(colours), "batch_size": 3}
    handler.initialize(SimpleNamespace(system_properties=properties))
    handler.batches.clear()
    return handler


def ask(handler, *values, headers=None):
    rows = [{"body": value} for value in values]
    replies = handler.answer(rows, headers or [{}] * len(rows))
    return [(reply.status, json.loads(reply.body)) for reply in replies]


def test_a_batch_is_one_call(doubler):
    assert ask(doubler, 3, 4) == [(200, {"value": 6}), (200, {"value": 8})]
    assert doubler.batches == [[3, 4]]


def test_an_empty_batch(doubler):
    assert doubler.answer([], []) == []
    assert doubler.handle(None, None) == []
    assert doubler.batches == []


@pytest.mark.parametrize(
    ("guilty", "status", "type"),
    [
        (400, 400, "too_round"),
        (422, 422, "impossible"),
        (500, 500, "internal_error"),
        (507, 507, "out_of_memory"),
        (508, 507, "out_of_memory"),
        (666, 500, "internal_error"),
        (777, 500, "internal_error"),
        (778, 500, "internal_error"),
        ({"unknown": 1}, 400, "unknown_name"),
    ],
)
def test_only_the_guilty_fail(doubler, guilty, status, type):
    first, second, third, fourth = ask(doubler, 3, guilty, 4, guilty)
    assert first == (200, {"value": 6})
    assert third == (200, {"value": 8})
    for reply in (second, fourth):
        assert reply[0] == status
        assert reply[1]["code"] == status
        assert reply[1]["type"] == type
        assert reply[1]["message"]


def test_a_lost_result_is_retried_alone(doubler):
    assert ask(doubler, 3, 1) == [(200, {"value": 6}), (200, {"value": 2})]


def test_what_is_our_fault_is_logged_in_full(doubler, caplog):
    ask(doubler, 500)
    assert "a bug in inference" in caplog.text
    caplog.clear()
    ask(doubler, 400)
    assert not caplog.records


def test_big_batches_are_cut_to_the_limit(doubler):
    assert doubler.batch_limit == 8
    (reply,) = ask(doubler, {"instances": [{"data": value} for value in range(2, 22)]})
    assert reply == (200, {"value": [2 * value for value in range(2, 22)]})
    assert [len(batch) for batch in doubler.batches] == [8, 8, 4]


def test_one_bad_item_fails_its_request_alone(doubler):
    bad = {"instances": [{"data": 3}, {"data": 422}, {"data": 4}]}
    first, second = ask(doubler, bad, 5)
    assert (first[0], first[1]["type"]) == (422, "impossible")
    assert second == (200, {"value": 10})


@pytest.mark.parametrize("handler", [ImageClassifier, TextClassifier, SpeechRecognizer])
def test_a_task_overrides_nothing_private(handler):
    private = {name for name in vars(BaseHandler) if re.fullmatch(r"_[a-z]\w*", name)}
    assert private
    assert not private & set(vars(handler))


def test_describe(doubler):
    described, answered = ask(doubler, b"", 3, headers=[{"describe": "True"}, {}])
    assert described[0] == 200
    assert described[1]["name"] == "colours"
    assert described[1]["report"] == {"recipe": "colours", "gate": {"passed": True}}
    shown = {"name", "task", "engine", "labels", "input", "output", "report", "statement", "bom"}
    assert set(described[1]) == shown
    assert described[1]["statement"] is None and described[1]["bom"] is None  # it carries neither
    assert described[1]["engine"] == {"file": "model.pt", "milliseconds": {}, "skipped": {}}
    assert answered == (200, {"value": 6})


def test_handle_survives_a_context_without_headers(doubler):
    sent = {}
    context = SimpleNamespace(
        set_response_content_type=lambda index, value: sent.setdefault(index, [value]),
        set_response_status=lambda code, phrase, idx: sent[idx].append((code, phrase)),
    )
    assert doubler.handle([{"body": 3}, {"body": 400}], context)[0] == b'{"value": 6}'
    assert sent == {
        0: ["application/json", (200, "OK")],
        1: ["application/json", (400, "Bad Request")],
    }


def test_handle_survives_even_itself(doubler, monkeypatch):
    def fails(rows, headers, senders):
        raise MemoryError

    monkeypatch.setattr(doubler, "answer", fails)
    statuses = []
    context = SimpleNamespace(
        set_response_content_type=lambda index, value: None,
        set_response_status=lambda code, phrase, idx: statuses.append(code),
    )
    replies = doubler.handle([{"body": 3}, {"body": 4}], context)
    assert statuses == [507, 507]
    assert [json.loads(reply)["type"] for reply in replies] == ["out_of_memory"] * 2


def test_every_batch_size_is_warmed_up(colours):
    class Counting(Doubler):
        def example(self):
            return 9

    handler = Counting()
    properties = {"model_dir": str(colours), "batch_size": 5}
    handler.initialize(SimpleNamespace(system_properties=properties))
    sizes = [len(batch) for batch in handler.batches]
    assert sizes == [size for size in (1, 2, 3, 4, 5, 8) for _ in range(3)]


def test_a_card_of_another_task_is_refused(tmp_path):
    folder = archive.make(tmp_path, task="speech_recognition")
    with pytest.raises(ModelError, match=r"speech_recognition.*image_classification"):
        Doubler().initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))


def test_a_foreign_handlers_package_is_refused(root, tmp_path):
    folder = archive.make(tmp_path)
    shutil.copytree(root / "handlers", folder / "handlers")
    with pytest.raises(ModelError, match="PYTHONPATH"):
        Doubler().initialize(SimpleNamespace(system_properties={"model_dir": str(folder)}))


ALONE = """
import sys
from types import SimpleNamespace
from image_classifier import ImageClassifier
handler = ImageClassifier()
handler.initialize(SimpleNamespace(system_properties={"model_dir": sys.argv[1]}))
(reply,) = handler.answer([{"body": [[0, 255], [255, 0]]}], [{}])
assert reply.status == 200, reply.body
assert not {"ts", "optimize", "deploy", "torchvision"} & set(sys.modules), sys.modules
print(sys.modules["handlers.base"].__file__)
"""


def test_an_archive_needs_nothing_but_itself(root: Path, tmp_path: Path):
    folder = archive.make(tmp_path / "model")
    shutil.copytree(root / "handlers", folder / "handlers")
    shutil.copy(root / "handlers" / "image_classifier.py", folder)
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "handlers" / "base.py")


def test_the_serving_side_imports_nothing_that_unpickles(root: Path):
    for path in (root / "handlers").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            assert not {"pickle", "joblib", "dill", "torch.load", "np.load"} & set(names), path
            assert not any(name.split(".")[0] in ("optimize", "deploy") for name in names), path


class Held:
    """Something that a weak reference can watch."""


@pytest.mark.parametrize("where", ["preprocess", "decode", "inference", "postprocess"])
@pytest.mark.parametrize("error", [RequestError(400, "no", "no"), ValueError("a bug")])
def test_a_failed_request_leaves_nothing_of_it_behind(doubler, where, error):
    held = []

    def fail(*args):
        big = Held()
        held.append(weakref.ref(big))
        raise type(error)(*(error.args if isinstance(error, ValueError) else (400, "no", "no")))

    setattr(doubler, where, fail)
    logging.disable()  # pytest keeps what is logged, traceback and all
    gc.disable()  # freed at once, not at the next collection
    try:
        replies = doubler.answer([{"body": 3}], [{}])
        assert replies[0].status in (400, 500)
        assert [watched() for watched in held] == [None] * len(held)
        assert held
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def test_a_503_says_when_to_come_again():
    class Late(Doubler):
        def preprocess(self, request):
            if request.inputs[0].value == "3":
                raise RequestError(503, "busy", "come again")
            return super().preprocess(request)

    told: dict[int, dict[str, str]] = {0: {}, 1: {}}
    context = SimpleNamespace(
        get_all_request_header=lambda index: {},
        set_response_content_type=lambda index, value: None,
        set_response_status=lambda code, phrase, idx: None,
        set_response_header=lambda index, key, value: told[index].update({key: value}),
    )
    handler = Late()
    handler.setup()
    handler.card = SimpleNamespace(input={})
    handler.budget = Budget("inputs", 10, 10)
    handler._handled([{"data": "3"}, {"data": "4"}], context)
    assert told == {0: {"Retry-After": "1"}, 1: {}}
