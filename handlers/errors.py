"""The error of one request, and the error of a worker that cannot start."""

import json
from http import HTTPStatus

MESSAGE_LIMIT = 400


class ModelError(RuntimeError):
    """The archive or the machine cannot serve: raised while a worker starts.

    A RuntimeError because TorchServe reports that kind, and only that kind, as a
    failed load with its message.
    """


class RequestError(Exception):
    """One request's failure: an HTTP status, a stable `type` word and advice.

    The base handler turns it into that request's own status and JSON body; the
    other requests of the batch are answered as usual.
    """

    def __init__(self, status: int, type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.message = message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."

    @property
    def phrase(self) -> str:
        """The reason phrase, always ASCII: anything else kills a TorchServe worker."""
        return reason(self.status)

    def body(self) -> bytes:
        """`{"code", "type", "message"}` as ASCII JSON."""
        error = {"code": self.status, "type": self.type, "message": self.message}
        return json.dumps(error).encode("ascii")


def reason(status: int) -> str:
    """The standard ASCII reason phrase of an HTTP status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out (Python's, PyTorch's or the C++ runtime's)."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text
        or "not enough memory" in text
        or "out of memory" in text
        or "bad_alloc" in text
    )


def as_request_error(error: Exception) -> RequestError:
    """Any exception as a RequestError: itself, 507 for out of memory, else 500."""
    if isinstance(error, RequestError):
        return error
    if out_of_memory(error):
        return RequestError(
            507, "out_of_memory", "the server ran out of memory on this input: send a smaller one"
        )
    return RequestError(
        500,
        "internal_error",
        f"the model failed on this input ({type(error).__name__}): see the worker's log",
    )
