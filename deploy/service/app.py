"""The Flask application, and its factory for WSGI servers.

gunicorn --threads 8 'deploy.service.app:create("model_store/fashion.mar")'
"""

import atexit
import logging
import uuid
from collections.abc import Collection
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from deploy.service import access, kserve, openapi, tensorflow, torchserve
from deploy.service.failure import Failure, internal, no_method, no_resource, too_large
from deploy.service.models import Models
from deploy.service.responses import error_response, failure_response
from deploy.torchserve import config as configuration

logger = logging.getLogger(__name__)

MAX_BODY = 33_554_432  # config.properties: max_request_size


def create(
    *archives: str,
    workers: int = 1,
    hosts: Collection[str] = (),
    config: str = "config.properties",
) -> Flask:
    """An application that serves these archives, with `workers` threads for each.

    `hosts` are the names under which it is reached, beyond this machine's and its addresses.
    `config`, where it exists, says whose archives are served. Raises BadInput for an archive that
    cannot be served, Untrusted for one that is not signed as it asks.
    """
    models = Models(trust=configuration.trust(Path(config), optional=True))
    for path in archives:
        models.register(Path(path), workers, at_startup=True)
    atexit.register(models.close)
    return build(models, hosts)


def build(models: Models, hosts: Collection[str] = (), key: str | None = None) -> Flask:
    """The inference application of `models`, including models that are loaded later.

    `hosts` are names under which it is reached; `key`, if given, is asked of every client.
    """
    app = bare("marpress", models)
    access.guard(app, hosts, key)
    app.register_blueprint(tensorflow.blueprint(models))
    app.register_blueprint(kserve.blueprint(models))
    openapi.add_route(app, models)
    torchserve.add_routes(app, models)
    return app


def bare(name: str, models: Models) -> Flask:
    """An application without routes, with our error bodies and headers."""
    app = Flask(name, static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    add_conventions(app, models)
    return app


def add_conventions(app: Flask, models: Models) -> None:
    """Error bodies and headers in TorchServe's form; requests counted by their status."""

    @app.errorhandler(Failure)
    def failed(error: Failure) -> Response:
        return failure_response(error)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        failure = _translated(error)
        if request.path.startswith("/v1/") and error.code in {404, 405}:
            message = f"Malformed request: {request.method} {request.path}"
            return error_response(failure.status, message)
        if request.path.startswith(("/v1/", "/v2")):
            return error_response(failure.status, failure.message)
        return failure_response(failure)

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.path, exc_info=error)
        return failure_response(
            internal(500, f"the service failed ({type(error).__name__}): see its log")
        )

    @app.after_request
    def finish(response: Response) -> Response:
        if 200 <= response.status_code < 300:
            models.metrics.add("Requests2XX", Level="Host")
        elif 400 <= response.status_code < 500:
            models.metrics.add("Requests4XX", Level="Host")
        else:
            models.metrics.add("Requests5XX", Level="Host")
        response.headers["x-request-id"] = str(uuid.uuid4())
        response.headers["Cache-Control"] = "no-cache; no-store, must-revalidate, private"
        return response


def _translated(error: HTTPException) -> Failure:
    if isinstance(error, RequestEntityTooLarge):
        return too_large(MAX_BODY)
    if error.code == 404:
        return no_resource()
    if error.code == 405:
        return no_method()
    return Failure(error.code or 500, "BadRequestException", error.description or error.name)
