"""A small archive folder with real TorchScript, and TorchServe's own code around a handler."""

import io
import json
import socket
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import ts
from torch import nn
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.protocol.otf_message_handler import retrieve_msg
from ts.service import Service

LABELS = ["red", "green", "blue"]
SIZE = (32, 32)

# A picture of one of these greys makes the model below fail.
RAISES, EXHAUSTS, NOT_A_NUMBER = 13, 14, 15


class MeanColour(nn.Module):
    """Logits are the mean colour; three greys stand for three ways to fail."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.float().mean((2, 3))
        if bool((mean == 13.0).all(1).any()):
            raise RuntimeError("a poisoned picture")
        if bool((mean == 14.0).all(1).any()):
            return torch.zeros([1 << 50])
        odd = (mean == 15.0).all(1, keepdim=True)
        return torch.where(odd, torch.full_like(mean, float("nan")), mean / 16)


def make(folder: Path, **changes: Any) -> Path:
    """Write model.pt, model.json and report.json; `changes` replace entries of the card."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(MeanColour()).save(str(folder / "model.pt"))
    card = {
        "name": "colours",
        "task": "image_classification",
        "handler": "image_classifier",
        "labels": LABELS,
        "model": {
            "file": "model.pt",
            "quantized_engine": None,
            "threads": 1,
            "batch_sizes": [1, 2, 4, 8],
        },
        "input": {"size": list(SIZE), "channels": 3, "resize": 36},
        "serving": {"workers": 1, "batch_size": 8},
        "files": [],
    } | changes
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "report.json").write_text(json.dumps({"recipe": "colours", "gate": {"passed": True}}))
    return folder


@dataclass
class Sent:
    """One request as TorchServe's front end sends it on to a worker."""

    parts: list[tuple[str, str, bytes]]
    headers: dict[str, str] = field(default_factory=dict)


def body(data: bytes, content_type: str = "", **headers: str) -> Sent:
    """A request with a raw body."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    if content_type:
        named["Content-Type"] = content_type
    return Sent([("body", content_type.partition(";")[0], data)], named)


@dataclass
class Answer:
    """One answer as the front end reads it."""

    status: int
    phrase: str
    content_type: str
    body: bytes
    request_id: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.body)


def metrics_cache(config: Path) -> MetricsCacheYamlImpl:
    """TorchServe's metrics cache, as a worker makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file open
        cache = MetricsCacheYamlImpl(str(config))
    cache.initialize_cache()
    cache.model_name = "colours"
    return cache


class Worker:
    """A handler inside TorchServe's real service, metrics cache and wire protocol."""

    def __init__(self, handler: Any, folder: Path, batch_size: int = 8) -> None:
        cache = metrics_cache(Path(ts.__file__).parent / "configs" / "metrics.yaml")
        self.handler = handler
        self.service = Service(
            "colours", str(folder), None, handler.handle, None, batch_size, True, cache
        )
        self.service.set_cl_socket(None)
        handler.initialize(self.service.context)

    def predict(self, *requests: Sent) -> list[Answer]:
        """Send a batch through the wire format, both ways."""
        command, batch = retrieve_msg(_Wire(_frames(requests)))
        assert command == b"I"
        return _answers(io.BytesIO(self.service.predict(batch)))

    def stream(self, *requests: Sent) -> list[Answer]:
        """Send a batch over a real socket: partial answers in their order, then the whole ones."""
        ours, workers = socket.socketpair()
        with ours, workers:
            self.service.set_cl_socket(workers)
            try:
                _, batch = retrieve_msg(_Wire(_frames(requests)))
                workers.sendall(self.service.predict(batch))
            finally:
                self.service.set_cl_socket(None)
            workers.shutdown(socket.SHUT_WR)
            with ours.makefile("rb") as received:
                data = received.read()
        stream, answers = io.BytesIO(data), []
        while stream.tell() < len(data):
            answers += _answers(stream)
        return answers


class _Wire:
    """The reading end of a socket."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def recv(self, length: int) -> bytes:
        return self._stream.read(length)


def _text(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def _frames(requests: tuple[Sent, ...]) -> bytes:
    end = struct.pack("!i", -1)
    out = b"I"
    for index, request in enumerate(requests):
        out += _text(b"request-%d" % index)
        for name, value in request.headers.items():
            out += _text(name.encode()) + _text(value.encode())
        out += end
        for name, kind, data in request.parts:
            out += _text(name.encode()) + _text(kind.encode()) + _text(data)
        out += end
    return out + end


def _answers(stream: io.BytesIO) -> list[Answer]:
    """The answers of one message."""

    def integer() -> int:
        return int(struct.unpack("!i", stream.read(4))[0])

    def text() -> bytes:
        return stream.read(integer())

    code, reason = integer(), text()
    assert code == 200, f"the whole batch failed: {code} {reason!r}"
    answers = []
    while (length := integer()) != -1:
        request_id = stream.read(length).decode()
        kind, status, phrase = text().decode(), integer(), text().decode("ascii")
        headers = {text().decode(): text().decode() for _ in range(integer())}
        answers.append(Answer(status, phrase, kind, text(), request_id, headers))
    return answers
