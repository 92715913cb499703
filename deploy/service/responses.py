"""Responses that the protocols have in common."""

from itertools import chain
from typing import Any

from flask import Response

from deploy.service.failure import Failure, pretty
from deploy.service.worker import Answer

JSON = "application/json"
OCTETS = "application/octet-stream"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def json_response(value: Any, status: int = 200) -> Response:
    """A JSON body, laid out as TorchServe does."""
    return Response(pretty(value), status, content_type=JSON)


def failure_response(failure: Failure) -> Response:
    """TorchServe's error form: `{"code", "type", "message"}`."""
    return Response(failure.body(), failure.status, content_type=JSON)


def error_response(status: int, message: str) -> Response:
    """The error form of TensorFlow Serving and KServe: `{"error"}`."""
    return json_response({"error": message}, status)


def answer_response(answer: Answer, later: Any = ()) -> Response:
    """A handler's answer as it gave it; a partial one is followed by `later` ones as they come."""
    body = chain([answer.body], (more.body for more in later)) if answer.partial else answer.body
    return Response(body, answer.status, content_type=answer.content_type)
