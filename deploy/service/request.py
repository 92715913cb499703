"""An HTTP request as the routes see it, whichever server brought it."""

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from deploy.service.job import Gone

Load = Callable[["Request"], Awaitable[bytes]]


@dataclass
class Request:
    """One request.

    Attributes:
        path: decoded; what is no UTF-8 is replaced.
        query: the query string, as sent.
        headers: names in lower case, and values.
        body: once it has been read, which is after the request was let in.
        gone: whether the client has hung up.
    """

    method: str
    path: str
    query: str = ""
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    gone: Gone | None = None

    def header(self, name: str, default: str = "") -> str:
        """The value of a header, by its name in lower case."""
        return next((value for key, value in self.headers if key == name), default)

    @property
    def args(self) -> dict[str, str]:
        """The query string's parameters; of several values the first."""
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return dict(reversed(pairs))

    @property
    def values(self) -> dict[str, str]:
        """The parameters of the query string and of a web form."""
        form: dict[str, str] = {}
        if self.header("content-type").startswith("application/x-www-form-urlencoded"):
            form = dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))
        return {**form, **self.args}

    @property
    def segments(self) -> list[str]:
        """The path's parts after the first, split as TorchServe does it: `/predictions/NAME/` is
        `/predictions/NAME`, so that empty ones at the end are left out."""
        parts = self.path.split("/")[2:]
        while parts and not parts[-1]:
            parts.pop()
        return parts

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)
