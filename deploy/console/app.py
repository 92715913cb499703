"""The console's routes: the page, its live parts, questions to models, and a new default."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from deploy import lock
from deploy.console import pages
from deploy.console.ask import ask, compared
from deploy.console.catalog import Catalog
from deploy.console.gate import Gate
from deploy.console.live import Live, Row
from deploy.errors import DeployError, ModelNotFound, NoServer, Refused
from deploy.service.app import App, Read
from deploy.service.failure import Failure, bad_request, no_resource
from deploy.service.metrics import Metrics
from deploy.service.request import Request
from deploy.service.responses import Reply, failure_response
from deploy.torchserve.inference import Inference

HTML = "text/html; charset=utf-8"
# Nothing from elsewhere, nothing inline: pictures and sound are the ones that the page was given.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}

Found = TypeVar("Found")


@dataclass(frozen=True)
class Server:
    """The server behind the console; `workdir` is the folder it runs in."""

    address: str
    workdir: Path
    catalog: Catalog
    inference: Inference
    live: Live


class ConsoleApp(App):
    """Routes whose replies say what their page may load."""

    async def answer(self, request: Request, read: Read | None = None) -> Reply:
        reply = await super().answer(request, read)
        reply.headers |= HEADERS
        return reply


def build(server: Server, gate: Gate, entered: Callable[[], None] = lambda: None) -> App:
    """The console's application; `entered` is called when a browser has used the link."""
    app = ConsoleApp(Metrics())
    app.guard(gate.check)

    @app.route("/", form=_refused_page)
    async def page(request: Request) -> Reply:
        models, figures = await _done(lambda: (server.catalog.models(), server.live.figures()))
        return _html(pages.page(models, figures, server.address, gate.token))

    @app.route("/enter/<code>", form=_refused_page)
    def enter(request: Request, code: str) -> Reply:
        cookie = gate.enter(code)
        entered()
        reply = _html(pages.entered())
        reply.headers["Set-Cookie"] = cookie
        return reply

    @app.route("/static/<name>")
    def static(request: Request, name: str) -> Reply:
        if name not in pages.STATIC:
            raise no_resource()
        return Reply(pages.static(name), content_type=pages.STATIC[name])

    @app.route("/live")
    async def live(request: Request) -> Reply:
        figures = await _done(server.live.figures)
        return _html(pages.live_part(figures), _state(figures.rows))

    @app.route("/ask", methods=["POST"])
    async def question(request: Request) -> Reply:
        wanted = _wanted(request)
        if not request.body:
            raise bad_request("nothing was sent: choose a file or type a text")
        kind = request.header("content-type") or "application/octet-stream"
        explain = request.args.get("explain") == "1"

        def put() -> bytes:
            for name, version in wanted:
                server.catalog.find(name, version)
            asked = [
                ask(server.inference, name, version, request.body, kind, explain)
                for name, version in wanted
            ]
            return pages.answer_part(asked, compared(asked))

        return _html(await _done(put))

    @app.route("/default", methods=["POST"])
    async def default(request: Request) -> Reply:
        ((name, version),) = _wanted(request)[:1]

        def promote() -> bytes:
            server.catalog.find(name, version)
            with _alone(server, name):
                server.catalog.promote(name, version)
            return pages.models_part(server.catalog.models())

        return _html(await _done(promote))

    @app.route("/restore", methods=["POST"])
    async def earlier(request: Request) -> Reply:
        ((name, version),) = _wanted(request)[:1]

        def restore() -> bytes:
            server.catalog.default(name)
            with _alone(server, name):
                server.catalog.restore(name, version)
            return pages.models_part(server.catalog.models())

        return _html(await _done(restore))

    return app


def _alone(server: Server, name: str) -> AbstractContextManager[None]:
    """Wait for a roll-out of the same name, which decides on the default too."""
    return lock.held(server.workdir / ".run" / f"serve-{Path(name).name}.lock")


def _wanted(request: Request) -> list[tuple[str, str]]:
    """The version that a request is about, and the one to compare it with, if any.

    Raises Failure 400.
    """
    args = request.args
    found = [(args.get("model", ""), args.get("version", ""))]
    if "other" in args:
        found.append((args["other"], args.get("other_version", "")))
    if not all(name and version for name, version in found):
        raise bad_request("the request must name a model and a version")
    return found


async def _done(work: Callable[[], Found]) -> Found:
    """The result of calls to the server, which block; its refusals as Failure."""
    try:
        return await _aside(work)
    except NoServer as error:
        raise Failure(502, "NoServer", str(error)) from error
    except ModelNotFound as error:
        raise Failure(404, error.kind or "ModelNotFoundException", error.detail) from error
    except Refused as error:
        raise Failure(502, error.kind or "Refused", str(error)) from error
    except DeployError as error:  # an archive that is not admitted, say
        raise Failure(400, type(error).__name__, str(error)) from error


async def _aside(work: Callable[[], Found]) -> Found:
    """The result of work in a thread of its own, which neither the console's end nor another
    request waits for, as they would for those of asyncio's pool."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Found] = loop.create_future()

    def tell(found: Future[Found]) -> None:
        if done.done():  # cancelled
            return
        error = found.exception()
        if error is None:
            done.set_result(found.result())
        else:
            done.set_exception(error)

    def run() -> None:
        found: Future[Found] = Future()
        try:
            found.set_result(work())
        except Exception as error:
            found.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, found)

    threading.Thread(target=run, daemon=True).start()
    return await done


def _state(rows: list[Row]) -> str:
    """Changes when a version comes, goes or becomes the default."""
    seen = "\n".join(f"{row.name}\t{row.version}\t{row.default}" for row in rows)
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def _html(body: bytes, state: str | None = None) -> Reply:
    headers = {} if state is None else {"X-Console-State": state}
    return Reply(body, content_type=HTML, headers=headers)


def _refused_page(failure: Failure) -> Reply:
    reply = failure_response(failure)
    titles = {403: "Not let in", 502: "No server answers"}
    reply.body = pages.refused(titles.get(failure.status, "That did not work"), failure.message)
    reply.content_type = HTML
    return reply
