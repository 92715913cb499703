"""The service's routes: what matches a request, who may ask, and how errors are told.

An `App` knows no server: `asgi` runs it under uvicorn, `debug` under Flask. Routes are
werkzeug's, as in Flask.
"""

import functools
import logging
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule

from deploy.service import access, kserve, openai, openapi, sagemaker, tensorflow, torchserve
from deploy.service.failure import Failure, internal, no_method, no_resource
from deploy.service.metrics import Metrics
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import Reply, error_response, failure_response

logger = logging.getLogger(__name__)

MAX_BODY = 33_554_432  # config.properties: max_request_size

_PATHS = 1024  # whose routes are remembered, each of
_LONGEST = 256  # characters at most

View = Callable[..., Reply | Awaitable[Reply]]
Form = Callable[[Failure], Reply]
Read = Callable[[], Awaitable[bytes]]


class App:
    """Routes; replies are counted in `metrics`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._map = Map(strict_slashes=False, merge_slashes=False)
        self._views: dict[str, tuple[View, Form]] = {}
        self._matcher = self._map.bind("")
        self._matched = functools.lru_cache(maxsize=_PATHS)(self._matcher.match)
        self._guards: list[Callable[[Request], None]] = []

    def route(
        self, *rules: str, methods: Collection[str] = ("GET",), form: Form = failure_response
    ) -> Callable[[View], View]:
        """Have a function answer requests: `view(request, **parts of the path)`.

        `form` makes the reply of a Failure that it raises.
        """

        def add(view: View) -> View:
            name = f"{view.__module__}.{view.__qualname__}.{len(self._views)}"
            self._views[name] = (view, form)
            for rule in rules:
                self._map.add(Rule(rule, endpoint=name, methods=methods))
            return view

        return add

    def guard(self, check: Callable[[Request], None]) -> None:
        """Have every request checked before its body is read; the check raises Failure."""
        self._guards.append(check)

    async def answer(self, request: Request, read: Read | None = None) -> Reply:
        """The reply to a request, whose body `read` reads once it is let in; never raises."""
        form: Form = failure_response
        view: View | None = None
        try:
            refusal: HTTPException | None = None
            parts: Mapping[str, Any] = {}
            try:
                short = len(request.path) <= _LONGEST
                match = self._matched if short else self._matcher.match
                name, parts = match(request.path, request.method)
                view, form = self._views[name]
            except HTTPException as error:
                refusal = error
            for check in self._guards:
                check(request)
            if refusal is not None or view is None:
                reply = _refused(request, refusal)
            else:
                if read is not None:
                    request.body = await read()
                found = view(request, **parts)
                reply = found if isinstance(found, Reply) else await found
        except Failure as failure:
            reply = form(failure) if view is not None else _unmatched(request, failure)
        except Exception as error:
            logger.error("%s %s failed", request.method, request.path, exc_info=error)
            message = f"the service failed ({type(error).__name__}): see its log"
            reply = failure_response(internal(500, message))
        self._count(reply.status)
        reply.headers["x-request-id"] = str(uuid.uuid4())
        reply.headers["Cache-Control"] = "no-cache; no-store, must-revalidate, private"
        return reply

    def _count(self, status: int) -> None:
        """Replies by their status, under TorchServe's names."""
        group = "2XX" if 200 <= status < 300 else "4XX" if 400 <= status < 500 else "5XX"
        self._metrics.add(f"Requests{group}", Level="Host")


def build(models: Models, hosts: Collection[str] = (), key: str | None = None) -> App:
    """The inference application of `models`, including models that are loaded later.

    `hosts` are names under which it is reached; `key`, if given, is asked of every client.
    """
    app = App(models.metrics)
    access.guard(app, hosts, key)
    torchserve.add_routes(app, models)
    tensorflow.add_routes(app, models)
    kserve.add_routes(app, models)
    openai.add_routes(app, models)
    sagemaker.add_routes(app, models)
    openapi.add_route(app, models)
    return app


def _refused(request: Request, error: HTTPException | None) -> Reply:
    failure = _translated(error)
    if request.path.startswith("/v1/") and failure.status in {404, 405}:
        message = f"Malformed request: {request.method} {request.path}"
        return error_response(failure.status, message)
    return _unmatched(request, failure)


def _unmatched(request: Request, failure: Failure) -> Reply:
    if request.path.startswith(("/v1/", "/v2")):
        return error_response(failure.status, failure.message, failure)
    return failure_response(failure)


def _translated(error: HTTPException | None) -> Failure:
    if isinstance(error, MethodNotAllowed):
        return no_method()
    if error is None or isinstance(error, NotFound):
        return no_resource()
    return Failure(error.code or 500, "BadRequestException", error.description or error.name)
