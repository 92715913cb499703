"""TorchServe's list of models and their descriptions, on both addresses."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil

from deploy.service import metadata
from deploy.service.failure import Failure, no_resource
from deploy.service.models import Model, Models
from deploy.service.pool import QUEUE_SIZE
from deploy.service.request import Request
from deploy.service.responses import Reply, json_response
from deploy.service.slot import Slot

if TYPE_CHECKING:
    from deploy.service.app import App


def add_routes(app: "App", models: Models, customized: bool = False) -> None:
    """GET /models and /models/NAME[/VERSION]; with `customized` the models' own descriptions.

    Those hold the report, so that they are for the management address alone.
    """

    @app.route("/models", "/models/<path:rest>")
    async def described(request: Request, rest: str = "") -> Reply:
        return await describe(models, request.segments, request.args, customized)


async def describe(
    models: Models, parts: list[str], args: dict[str, str], may_customize: bool
) -> Reply:
    """The list of models, or one of them. Raises Failure."""
    if len(parts) > 2:
        raise no_resource()
    if not parts:
        return json_response(listing(models, args))
    name, version = parts[0], parts[1] if len(parts) > 1 else None
    chosen = models.versions(name) if version == "all" else [models.get(name, version)]
    customized = args.get("customized", "").lower() == "true"
    if customized and not may_customize:
        message = "customized=true is answered at the management address, which asks for its key"
        raise Failure(403, "ForbiddenException", message)
    return json_response([await _entry(model, customized) for model in chosen])


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


async def _entry(model: Model, customized: bool) -> dict[str, Any]:
    settings = model.bundle.settings
    entry: dict[str, Any] = {
        "modelName": model.bundle.name,
        "modelVersion": model.bundle.version,
        "modelUrl": model.bundle.url,
        "runtime": "python",
        "minWorkers": model.min_workers,
        "maxWorkers": model.min_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "responseTimeout": settings.response_timeout_s,
        "startupTimeout": settings.startup_timeout_s,
        "deviceType": "cpu",
        "loadedAtStartup": model.at_startup,
        "workers": [_worker(slot) for slot in model.pool.slots],
        "jobQueueStatus": {
            "remainingCapacity": QUEUE_SIZE - model.pool.pending,
            "pendingRequests": model.pool.pending,
        },
    }
    if customized:
        entry["customizedMetadata"] = await metadata.description(model)
    return entry


def _worker(slot: Slot) -> dict[str, Any]:
    return {
        "id": str(slot.number),
        "startTime": _instant(slot.started),
        "status": "READY" if slot.running else "UNLOADED",
        "memoryUsage": _memory(slot.pid),
        "pid": slot.pid,
        "gpu": False,
        "gpuUsage": "N/A",
    }


def _memory(pid: int | None) -> int:
    """Resident bytes of a process, 0 for one that has gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss) if pid is not None else 0
    except psutil.Error:
        return 0


def _instant(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _whole(text: str | None, default: int) -> int:
    try:
        return int(text) if text is not None else default
    except ValueError:
        return default
