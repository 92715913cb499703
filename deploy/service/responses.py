"""Responses that the protocols have in common, and who waits for them."""

import socket
from collections.abc import Callable
from itertools import chain
from typing import Any

from flask import Request, Response

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
    return _retried(Response(failure.body(), failure.status, content_type=JSON), failure)


def error_response(status: int, message: str, failure: Failure | None = None) -> Response:
    """The error form of TensorFlow Serving and KServe: `{"error"}`; of `failure`, if given."""
    return _retried(json_response({"error": message}, status), failure)


def _retried(response: Response, failure: Failure | None) -> Response:
    if failure is not None and failure.retry_after is not None:
        response.headers["Retry-After"] = str(failure.retry_after)
    return response


def answer_response(answer: Answer, later: Any = ()) -> Response:
    """A handler's answer as it gave it; a partial one is followed by `later` ones as they come."""
    body = chain([answer.body], (more.body for more in later)) if answer.partial else answer.body
    return Response(body, answer.status, content_type=answer.content_type)


def client_gone(request: Request) -> Callable[[], bool] | None:
    """Whether the client of a request has hung up, as a question for any time; None: unknown."""
    told = request.environ.get("waitress.client_disconnected")
    if told is not None:
        return lambda: bool(told())
    wire = request.environ.get("gunicorn.socket")
    if wire is None:
        return None

    def gone() -> bool:
        try:
            return not wire.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    return gone
