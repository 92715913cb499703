"""Replies, and the forms that the protocols have in common."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from deploy.service.context import Answer
from deploy.service.failure import Failure, pretty

JSON = "application/json"
OCTETS = "application/octet-stream"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Reply:
    """A response; `more` are the parts of a streamed body that follow `body`."""

    body: bytes = b""
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    more: AsyncIterator[bytes] | None = None


def json_response(value: Any, status: int = 200) -> Reply:
    """A JSON body, laid out as TorchServe does."""
    return Reply(pretty(value), status)


def failure_response(failure: Failure) -> Reply:
    """TorchServe's error form: `{"code", "type", "message"}`."""
    return retried(Reply(failure.body(), failure.status), failure)


def error_response(status: int, message: str, failure: Failure | None = None) -> Reply:
    """The error form of TensorFlow Serving and KServe: `{"error"}`; of `failure`, if given."""
    return retried(json_response({"error": message}, status), failure)


def answer_response(first: Answer, later: AsyncIterator[Answer]) -> Reply:
    """A handler's answer as it gave it; a partial one is followed by later ones as they come."""
    more = (answer.body async for answer in later) if first.partial else None
    return Reply(first.body, first.status, first.content_type, first.headers, more)


def retried(reply: Reply, failure: Failure | None) -> Reply:
    """The reply, with a Retry-After header if the failure has one."""
    if failure is not None and failure.retry_after is not None:
        reply.headers["Retry-After"] = str(failure.retry_after)
    return reply
