"""Failures of the service itself, spelled as TorchServe spells them.

What a handler refuses carries the handler's own words (`RequestError`); these are the
failures that in TorchServe the Java front end answers: their `type` is its exception's name.
"""

import json
import math
from typing import Any

UNAVAILABLE = "Please use scale workers API to add workers."


class Failure(Exception):
    """An HTTP status, TorchServe's exception name and its message.

    `retry_after`: seconds after which it may go better, for a Retry-After header.
    """

    retry_after: int | None = None

    def __init__(self, status: int, type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message

    def body(self) -> bytes:
        """`{"code", "type", "message"}` as TorchServe lays it out."""
        return pretty({"code": self.status, "type": self.type, "message": self.message})


class ModelMissing(Failure):
    """No such model is loaded."""

    def __init__(self, name: str) -> None:
        super().__init__(404, "ModelNotFoundException", f"Model not found: {name}")
        self.name = name


class VersionMissing(Failure):
    """The model is loaded, but not in that version."""

    def __init__(self, name: str, version: str) -> None:
        message = f"Model version: {version} does not exist for model: {name}"
        super().__init__(404, "ModelVersionNotFoundException", message)
        self.name = name
        self.version = version


def no_resource() -> Failure:
    """No such path."""
    message = "Requested resource is not found, please refer to API document."
    return Failure(404, "ResourceNotFoundException", message)


def no_method() -> Failure:
    """The path exists, the method does not."""
    message = "Requested method is not allowed, please refer to API document."
    return Failure(405, "MethodNotAllowedException", message)


def bad_request(message: str) -> Failure:
    """The request cannot be read."""
    return Failure(400, "BadRequestException", message)


def unprocessable(message: str) -> Failure:
    """The request can be read, and asks for what cannot be."""
    return Failure(422, "BadRequestException", message)


def too_many(message: str) -> Failure:
    """The request holds more than is taken."""
    return Failure(413, "TooLongHttpContentException", message)


def bad_form(message: str) -> Failure:
    """A form that cannot be parsed. TorchServe says 500 with a Java message for the same."""
    return Failure(400, "ErrorDataDecoderException", message)


def too_large(limit: int) -> Failure:
    """The body is over the service's limit. TorchServe answers 413 with an empty body."""
    message = f"the request body is over the limit of {limit} bytes"
    return Failure(413, "TooLongHttpContentException", message)


def unavailable(name: str, version: str | None, wait: float = 0.0) -> Failure:
    """Nothing serves the model now: no workers, or more requests wait than can be answered in
    time. `wait` is how many seconds those take."""
    which = f'Model "{name}"' + (f" Version {version}" if version is not None else "")
    message = f"{which} has no worker to serve inference request. {UNAVAILABLE}"
    failure = Failure(503, "ServiceUnavailableException", message)
    failure.retry_after = max(1, min(60, math.ceil(wait)))
    return failure


def worker_died(times: int) -> Failure:
    """The worker that had the request ended, and so did the one that tried it again."""
    message = f"Worker died: {times} workers ended while they had this request"
    if times == 1:
        message = "Worker died in the middle of the answer"
    return Failure(500, "WORKER_DIED", message)


def busy() -> Failure:
    """As many bytes of requests as the service holds are in it already."""
    failure = Failure(503, "ServiceUnavailableException", "too many requests at a time")
    failure.retry_after = 1
    return failure


def bad_token() -> Failure:
    """The management key is missing or wrong."""
    message = (
        "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    )
    return Failure(400, "InvalidKeyException", message)


def internal(status: int, message: str) -> Failure:
    """The service's or the model's fault."""
    return Failure(status, "InternalServerException", message)


def pretty(value: Any) -> bytes:
    """JSON as TorchServe's front end writes it: indented by two, UTF-8, a newline at the end."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "replace")
