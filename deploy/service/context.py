"""What TorchServe's context is to a handler, for one batch in this service's workers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    """One request's answer as the handler gave it, or a partial one."""

    status: int
    body: bytes
    content_type: str = "application/json"
    partial: bool = False
    headers: dict[str, str] = field(default_factory=dict)


Send = Callable[[Answer], None]
"""Sends a partial answer to its client."""


@dataclass
class Reply:
    """How one request's answer is sent."""

    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Context:
    """The part of TorchServe's context that a handler uses during a batch.

    `senders` send partial answers, None for a request whose client takes none.
    """

    headers: Sequence[Mapping[str, Any]]
    senders: Sequence[Send | None]
    replies: list[Reply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replies = [Reply() for _ in self.headers]

    def get_all_request_header(self, idx: int) -> Mapping[str, Any]:
        return self.headers[idx]

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.replies[idx].content_type = str(value)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        self.replies[idx].headers[str(key)] = str(value)

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        self.replies[idx].status = int(code)

    def response_writer(self, idx: int) -> Callable[[bytes], None] | None:
        """For handlers/streaming.py: a function that sends the bytes of a partial answer."""
        send = self.senders[idx]
        if send is None:
            return None

        def write(data: bytes) -> None:
            reply = self.replies[idx]
            send(Answer(reply.status, data, reply.content_type, partial=True))

        return write
