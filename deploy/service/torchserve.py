"""TorchServe's inference, describe and metrics routes.

Paths are split as TorchServe splits them: `/predictions/NAME/` is `/predictions/NAME`, and a
fourth part beyond the version is not looked at.
"""

import json
import os
from datetime import datetime
from typing import Any

import psutil
from flask import Flask, Request, Response, request

from deploy.service import row
from deploy.service.failure import Failure, internal, no_resource, pretty
from deploy.service.models import Model, Models
from deploy.service.pool import QUEUE_SIZE, Thread

JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
PREDICT_METHODS = ["POST", "PUT", "GET"]


def add_routes(app: Flask, models: Models) -> None:
    """TorchServe's routes; what they do not take is answered by the app's error handlers."""

    @app.route("/predictions/<path:rest>", methods=PREDICT_METHODS)
    @app.route("/explanations/<path:rest>", methods=PREDICT_METHODS)
    def predictions(rest: str) -> Response:
        return predict(models, segments(request))

    @app.route("/ping", methods=["GET", "POST"])
    @app.route("/ping/<path:rest>", methods=["GET", "POST"])
    def ping(rest: str = "") -> Response:
        return Response(pretty({"status": health(models)}), content_type=JSON)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(models.metrics.text(), content_type=PROMETHEUS)

    add_describe(app, models)


def add_describe(app: Flask, models: Models) -> None:
    """The list of models, and their descriptions."""

    @app.get("/models")
    @app.get("/models/<path:rest>")
    def described(rest: str = "") -> Response:
        return describe(models, segments(request))


def segments(request: Request) -> list[str]:
    """The path's parts after the first: ["NAME", "VERSION"], empty ones at the end left out."""
    raw = request.environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
    parts = str(raw).split("/")[2:]
    while parts and not parts[-1]:
        parts.pop()
    return parts


def predict(models: Models, parts: list[str]) -> Response:
    """One prediction by the model's handler; `parts` are name and version. Raises Failure."""
    if not parts or not parts[0]:
        raise no_resource()
    name, version = parts[0], parts[1] if len(parts) > 1 else None
    models.get(name, version)  # an unknown model needs no reading of the body
    fields, headers = row.read(request.get_data(cache=False), request.headers.items())
    given = models.ask(name, version, fields, headers)
    return Response(given.body, given.status, content_type=given.content_type)


def health(models: Models) -> str:
    """Healthy, Partial Healthy or Unhealthy, over the default versions."""
    loaded = [models.get(name) for name in models.names()]
    wanted = sum(model.wanted for model in loaded)
    running = sum(_ready(t) for model in loaded for t in model.pool.threads)
    if running and running < wanted:
        return "Partial Healthy"
    return "Unhealthy" if wanted and not running else "Healthy"


def describe(models: Models, parts: list[str]) -> Response:
    """The list of models, or one of them. Raises Failure."""
    if len(parts) > 2:
        raise no_resource()
    if not parts:
        return Response(pretty(listing(models, request.args)), content_type=JSON)
    name, version = parts[0], parts[1] if len(parts) > 1 else None
    chosen = models.versions(name) if version == "all" else [models.get(name, version)]
    customized = request.args.get("customized", "").lower() == "true"
    return Response(pretty([_entry(m, customized) for m in chosen]), content_type=JSON)


def listing(models: Models, query: Any) -> dict[str, Any]:
    """A page of the list of models, as TorchServe counts pages."""
    limit, first = _whole(query.get("limit"), 100), max(0, _whole(query.get("next_page_token"), 0))
    limit = limit if 0 <= limit <= 100 else 100
    names = models.names()
    page: dict[str, Any] = {}
    if first + limit <= len(names):
        page["nextPageToken"] = str(first + limit)
    page["models"] = [
        {"modelName": name, "modelUrl": models.get(name).bundle.url}
        for name in names[first : first + limit]
    ]
    return page


def _entry(model: Model, customized: bool) -> dict[str, Any]:
    settings = model.bundle.settings
    memory = psutil.Process().memory_info().rss
    entry: dict[str, Any] = {
        "modelName": model.bundle.name,
        "modelVersion": model.bundle.version,
        "modelUrl": model.bundle.url,
        "runtime": "python",
        "minWorkers": model.wanted,
        "maxWorkers": model.wanted,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": settings.response_timeout_s,
        "startupTimeout": settings.startup_timeout_s,
        "deviceType": "cpu",
        "loadedAtStartup": model.at_startup,
        "workers": [_worker(thread, memory) for thread in model.pool.threads],
        "jobQueueStatus": {
            "remainingCapacity": QUEUE_SIZE - model.pool.pending,
            "pendingRequests": model.pool.pending,
        },
    }
    if customized:
        entry["customizedMetadata"] = metadata(model)
    return entry


def metadata(model: Model) -> Any:
    """The handler's own description of its model, asked for once. Raises Failure."""
    if model.described is None:
        model.described = _described(model)
    return model.described


def _described(model: Model) -> Any:
    job = model.pool.submit({}, {"describe": "True"})
    given = job.wait(model.bundle.settings.response_timeout_s) if job is not None else None
    if given is None:
        raise internal(500, f"no worker of {model.bundle.name} described it")
    value = json.loads(given.body)
    if given.status >= 400:
        raise Failure(given.status, str(value.get("type")), str(value.get("message")))
    return value


def _worker(thread: Thread, memory: int) -> dict[str, Any]:
    return {
        "id": str(thread.number),
        "startTime": _instant(thread.started),
        "status": "READY" if _ready(thread) else "UNLOADED",
        "memoryUsage": memory,
        "pid": os.getpid(),
        "gpu": False,
        "gpuUsage": "N/A",
    }


def _ready(thread: Thread) -> bool:
    return thread.ready.is_set() and thread.failure is None


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default
