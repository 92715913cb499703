"""Partial answers through TorchServe's own code, over a real socket, and where nothing streams."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.base import BaseHandler
from handlers.payload import Request
from handlers.streaming import sender
from tests.unit.handlers.archive import Sent, Worker, body


class Countdown(BaseHandler):
    """Counts down from a number, aloud where the client streams, and fails at 99."""

    task = "image_classification"
    parameters = ("stream",)

    def preprocess(self, request: Request) -> list[Any]:
        send = request.send if request.streaming else None
        return [(int(entry.value), send) for entry in request.inputs]

    def inference(self, inputs: list[Any]) -> list[Any]:
        return [self._count(start, send) for start, send in inputs]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        return results if request.many else results[0]

    def _count(self, start: int, send: Any) -> list[int]:
        for number in range(min(start, 3), 0, -1):
            if send is not None:
                send({"number": number})
        if start == 99:
            raise ZeroDivisionError
        return list(range(start, 0, -1))


@pytest.fixture
def countdown(colours: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", "false")
    return Worker(Countdown(), colours)


def asked(number: int, **more: Any) -> Sent:
    return body(json.dumps({"data": number, **more}).encode(), "application/json")


def test_each_client_gets_its_own_lines_then_its_answer(countdown: Worker) -> None:
    answers = countdown.stream(asked(2, stream=True), asked(3), asked(1, stream="1"))
    partial, whole = answers[:-3], answers[-3:]
    assert [(one.request_id, one.body) for one in partial] == [
        ("request-0", b'{"number": 2}\n'),
        ("request-0", b'{"number": 1}\n'),
        ("request-2", b'{"number": 1}\n'),
    ]
    for one in partial:
        assert (one.status, one.content_type) == (200, "application/jsonlines")
        assert one.headers["ts_stream_next"] == "true"
    assert [one.json() for one in whole] == [[2, 1], [3, 2, 1], [1]]
    assert [one.headers.get("ts_stream_next") for one in whole] == ["false", None, "false"]


def test_a_failure_after_the_first_line_is_the_last_line(countdown: Worker) -> None:
    *partial, failed = countdown.stream(asked(99, stream=True))
    assert [one.status for one in partial] == [200] * 3
    assert (failed.status, failed.json()["type"]) == (500, "internal_error")


def test_a_server_without_streams_refuses_and_says_what_to_do(countdown: Worker) -> None:
    refused, answered = countdown.predict(asked(2, stream=True), asked(2, stream=False))
    assert (refused.status, refused.phrase) == (501, "Not Implemented")
    assert refused.json()["type"] == "cannot_stream"
    assert "leave stream out" in refused.json()["message"]
    assert answered.json() == [2, 1]


def test_several_inputs_cannot_share_a_stream(countdown: Worker) -> None:
    (refused,) = countdown.stream(
        body(b'{"instances": [{"data": 1}], "stream": true}', "application/json")
    )
    assert (refused.status, refused.json()["type"]) == (400, "bad_parameter")


def test_another_server_gives_its_context_a_writer() -> None:
    written: list[tuple[int, bytes]] = []
    sent: list[Any] = []
    context = SimpleNamespace(
        response_writer=lambda index: lambda line: written.append((index, line)),
        set_response_content_type=lambda index, value: sent.append((index, value)),
        set_response_status=lambda code, phrase, idx: sent.append((idx, code)),
    )
    send = sender(context, 3)
    assert send is not None
    send({"text": "caf\u00e9"})
    assert written == [(3, b'{"text": "caf\\u00e9"}\n')]
    assert sent == [(3, "application/jsonlines"), (3, 200)]
    context.response_writer = lambda index: None
    assert sender(context, 3) is None
    assert sender(SimpleNamespace(), 0) is None
