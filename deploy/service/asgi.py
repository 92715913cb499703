"""An `App` as uvicorn calls it: reads bodies within bounds, sends replies."""

from collections.abc import Awaitable, Callable
from typing import Any

from deploy.service.app import MAX_BODY, App
from deploy.service.failure import bad_request, busy, too_large
from deploy.service.request import Request
from deploy.service.responses import Reply

MAX_HELD = 16 * MAX_BODY
"""Bytes of bodies that the service holds at a time, of all clients together."""

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Asgi:
    """The ASGI application of an App.

    The scope's `state` holds, as "gone", a function that tells whether the client has hung up.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
        request = Request(
            scope["method"],
            scope["path"],
            scope["query_string"].decode("latin-1"),
            headers,
            gone=scope["state"].get("gone"),
        )
        body = _Body(self, request, receive)
        try:
            reply = await self._app.answer(request, body.read)
            await _send(reply, send)
        finally:
            self._held -= body.size

    def hold(self, size: int) -> None:
        """Count bytes that are held from now on. Raises Failure 503 beyond what is held."""
        if self._held + size > MAX_HELD:
            raise busy()
        self._held += size


class _Body:
    """A request's body on its way in; `size` is what is counted of it."""

    def __init__(self, owner: Asgi, request: Request, receive: Receive) -> None:
        self.size = 0
        self._owner = owner
        self._request = request
        self._receive = receive

    async def read(self) -> bytes:
        """The whole body. Raises Failure 413 before it is read, if it says its length."""
        announced = self._request.header("content-length")
        if announced.isdecimal() and int(announced) > MAX_BODY:
            raise too_large(MAX_BODY)
        parts: list[bytes] = []
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise bad_request("the client hung up before the end of its body")
            part = message["body"]
            if self.size + len(part) > MAX_BODY:
                raise too_large(MAX_BODY)
            self._owner.hold(len(part))
            self.size += len(part)
            parts.append(part)
            more = message["more_body"]
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(reply: Reply, send: Send) -> None:
    headers = [(b"content-type", _encoded(reply.content_type))]
    headers += [(name.encode("ascii"), _encoded(value)) for name, value in reply.headers.items()]
    if reply.more is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    status = reply.status if 200 <= reply.status < 600 else 500
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if reply.more is None:
        await send({"type": "http.response.body", "body": reply.body})
        return
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    async for part in reply.more:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _encoded(value: str) -> bytes:
    """A header's value on one line, whatever a handler made of it."""
    return " ".join(value.split()).encode("latin-1", "replace")
