"""The service for a debugger: plain Flask, one request at a time, handlers in this very process.

A breakpoint in a handler stops where it should, in the main thread, and a client waits for as long
as its owner looks around. Routes and answers are the service's own.
"""

import asyncio
import os
from typing import Any

import flask
from werkzeug.serving import make_server

from deploy.errors import NoServer
from deploy.service.app import MAX_BODY, App
from deploy.service.bundle import Bundle
from deploy.service.context import Answer, Send
from deploy.service.process import Ended, Told
from deploy.service.request import Request
from deploy.service.responses import Reply
from deploy.service.wire import Batch
from deploy.service.worker import Records, Worker


class InProcess:
    """A worker that is no process: what `process.Process` is to a pool."""

    def __init__(self, bundle: Bundle, memory_limit: int | None, told: Told, ended: Ended) -> None:
        self._bundle = bundle
        self._told = told
        self._ended = ended
        self._records = Records()
        self._worker: Worker | None = None
        self.pid: int | None = os.getpid()

    async def start(self) -> None:
        """Load the handler."""
        try:
            self._worker = Worker(self._bundle, self._records)
        except Exception as error:
            self._told({"kind": "failed", "reason": str(error)}, [])
            self._ended()
        else:
            self._told({"kind": "ready"}, [])

    def send(self, batch: Batch) -> None:
        """Answer a batch, here and now."""
        if not batch.rows or self._worker is None:
            self._told({"kind": "alive"}, [])
            return
        senders = [self._sender(at) if yes else None for at, yes in enumerate(batch.streams)]
        answers = self._worker.answer(batch.rows, batch.headers, senders)
        head = {
            "kind": "answers",
            "answers": [[answer.status, answer.content_type] for answer in answers],
            "metrics": self._records.take(),
        }
        self._told(head, [answer.body for answer in answers])

    def end(self) -> None:
        """Unload the handler."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def kill(self) -> None:
        """There is nothing to kill: whoever debugs may take his time."""

    async def gone(self) -> None:
        """It is gone at once."""

    def how(self) -> str:
        """How it ended, in words."""
        return "was closed"

    def _sender(self, at: int) -> Send:
        def send(partial: Answer) -> None:
            status, kind = partial.status, partial.content_type
            head = {"kind": "partial", "at": at, "status": status, "type": kind}
            self._told(head, [partial.body])

        return send


def application(app: App, loop: asyncio.AbstractEventLoop) -> flask.Flask:
    """The Flask application that passes every request on to `app`, in `loop`."""
    made = flask.Flask("marpress", static_folder=None)
    made.config["MAX_CONTENT_LENGTH"] = MAX_BODY

    def answered() -> flask.Response:
        sent = flask.request
        headers = [(name.lower(), value) for name, value in sent.headers.items()]
        query = sent.query_string.decode("latin-1")
        request = Request(sent.method, sent.path, query, headers, sent.get_data(cache=False))
        reply, body = loop.run_until_complete(_whole(app, request))
        response = flask.Response(body, reply.status, content_type=reply.content_type)
        response.headers.update(reply.headers)
        return response

    methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
    for rule in ("/", "/<path:rest>"):
        made.add_url_rule(rule, rule, lambda rest="": answered(), methods=methods)
    return made


def serve(app: App, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
    """Answer requests in the main thread until Ctrl-C. Raises NoServer."""
    try:
        server = make_server(host, port, application(app, loop))
    except (OSError, SystemExit) as error:
        raise NoServer(f"cannot listen at {host}:{port}: choose --port") from error
    print(f"debugging   http://{host}:{server.server_port}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


async def _whole(app: App, request: Request) -> tuple[Reply, bytes]:
    reply = await app.answer(request)
    more: list[Any] = [] if reply.more is None else [part async for part in reply.more]
    return reply, reply.body + b"".join(more)
