"""Partial answers: JSON lines that reach a client before its whole answer does.

TorchServe streams by `send_intermediate_predict_response`. Another server does it by giving its
context a method `response_writer(index)`, which returns a function that sends a chunk's bytes.
"""

import json
from collections.abc import Callable
from typing import Any

CONTENT_TYPE = "application/jsonlines"

Send = Callable[[Any], None]
"""Sends one JSON value to one client, at once."""


def sender(context: Any, index: int) -> Send | None:
    """A function that sends partial answers to the request at `index`; None where none can be."""
    write = _writer(context, index)
    if write is None:
        return None

    def send(partial: Any) -> None:
        line = json.dumps(partial, allow_nan=False).encode("ascii") + b"\n"
        # The status and the content type are sent with the first line, so they are set before it.
        context.set_response_content_type(index, CONTENT_TYPE)
        context.set_response_status(code=200, phrase="OK", idx=index)
        write(line)

    return send


def _writer(context: Any, index: int) -> Callable[[bytes], None] | None:
    response_writer = getattr(context, "response_writer", None)
    if response_writer is not None:
        write: Callable[[bytes], None] | None = response_writer(index)
        return write
    if getattr(context, "cl_socket", None) is None:  # not in a TorchServe worker
        return None

    def write_to_torchserve(line: bytes) -> None:
        from ts.handler_utils.utils import send_intermediate_predict_response

        send_intermediate_predict_response(
            {index: line}, {index: context.request_ids[index]}, "Intermediate", 200, context
        )

    return write_to_torchserve
