"""Requests to an application without a socket, in the words of Flask's test client."""

import asyncio
import inspect
import json as json_module
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from deploy.service.app import App, build
from deploy.service.context import Answer
from deploy.service.models import Model, Models
from deploy.service.request import Request


class Loop:
    """A running event loop, used from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def do(self, work: Coroutine[Any, Any, Any], timeout: float = 120) -> Any:
        """Run a coroutine there; its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)


@dataclass
class Response:
    """A reply; `chunks` are the parts of its body as they came."""

    status_code: int
    content_type: str
    headers: dict[str, str]
    chunks: list[bytes]

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json_module.loads(self.data)


@dataclass
class Client:
    """Asks an application; `headers` go with every request."""

    loop: Loop
    app: App
    headers: dict[str, str] = field(default_factory=dict)

    def open(
        self,
        path: str,
        method: str = "GET",
        data: bytes | str = b"",
        json: Any = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        sent = {name.lower(): value for name, value in {**self.headers, **(headers or {})}.items()}
        if content_type is not None:
            sent["content-type"] = content_type
        if isinstance(data, str):
            data = data.encode()
        if json is not None:
            data = json_module.dumps(json).encode()
            sent["content-type"] = "application/json"
        path, _, query = path.partition("?")
        request = Request(method, path, query, list(sent.items()), data)
        return self.loop.do(self._answer(request))

    async def _answer(self, request: Request) -> Response:
        reply = await self.app.answer(request)
        chunks = [reply.body]
        if reply.more is not None:
            chunks += [part async for part in reply.more]
        return Response(reply.status, reply.content_type, reply.headers, chunks)

    def get(self, path: str, **options: Any) -> Response:
        return self.open(path, "GET", **options)

    def post(self, path: str, **options: Any) -> Response:
        return self.open(path, "POST", **options)

    def put(self, path: str, **options: Any) -> Response:
        return self.open(path, "PUT", **options)

    def delete(self, path: str, **options: Any) -> Response:
        return self.open(path, "DELETE", **options)


class Running:
    """Models in the loop, used from a test's thread; its methods are those of Models."""

    def __init__(self, loop: Loop, **options: Any) -> None:
        self.loop = loop
        self.models = Models(**options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.models, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **options: self.loop.do(found(*args, **options))

    def client(self) -> Client:
        """Asks the inference application."""
        return Client(self.loop, build(self.models))

    def answers(self, model: Model, rows: list[dict[str, Any]]) -> list[Answer | None]:
        """The answers to requests that come at the same time."""

        async def asked() -> list[Answer | None]:
            jobs = [model.pool.submit(row, {}) for row in rows]
            return [None if job is None else await job.answer() for job in jobs]

        return list(self.loop.do(asked()))
