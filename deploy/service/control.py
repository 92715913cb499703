"""TorchServe's management routes, for the service's second, loopback-only address.

Every call needs the key that `keys` wrote. `url` is the plain name of an archive in the model
store; nothing is ever downloaded.
"""

from contextlib import suppress
from pathlib import Path

from deploy.errors import BadInput, Untrusted
from deploy.service import access, describe
from deploy.service.app import App
from deploy.service.failure import Failure, bad_request, no_resource
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import Reply, json_response

UNREACHABLE = "does not match any allowed URL(s)"


def build(models: Models, store: Path, key: str) -> App:
    """The management application for `models`; `store` holds the archives."""
    app = App(models.metrics)
    access.guard(app, key=key)
    describe.add_routes(app, models, customized=True)

    @app.route("/models", methods=["POST"])
    async def register(request: Request) -> Reply:
        return _status(await _register(models, store, request.values))

    @app.route("/models/<path:rest>", methods=["PUT"])
    async def change(request: Request, rest: str) -> Reply:
        parts = request.segments
        if len(parts) == 3 and parts[2] == "set-default":
            models.set_default(parts[0], parts[1])
            which = f'model "{parts[0]}" to "{parts[1]}"'
            return _status(f"Default version successfully updated for {which}")
        if len(parts) not in {1, 2}:
            raise no_resource()
        version = parts[1] if len(parts) == 2 else None
        return _status(await _scale(models, parts[0], version, request.values))

    @app.route("/models/<path:rest>", methods=["DELETE"])
    async def unregister(request: Request, rest: str) -> Reply:
        parts = request.segments
        if len(parts) not in {1, 2}:
            raise no_resource()
        await models.unregister(parts[0], parts[1] if len(parts) == 2 else None)
        return _status(f'Model "{parts[0]}" unregistered')

    return app


def archive_path(store: Path, url: str | None) -> Path:
    """The archive that a register call means. Raises Failure in TorchServe's words."""
    if not url:
        raise bad_request("Parameter url is required.")
    if ".." in url:
        raise _missing(f"Relative path is not allowed in url: {url}")
    if "/" in url or "\\" in url or ":" in url:
        raise _missing(f"Given URL {url} {UNREACHABLE}")
    path = store / url
    with suppress(OSError):  # such as a name that is too long
        if path.is_file():
            return path
    raise _missing(f"Model not found at: {url}")


async def _register(models: Models, store: Path, values: dict[str, str]) -> str:
    path = archive_path(store, values.get("url"))
    try:
        model = await models.register(path, _workers(values, "initial_workers"))
    except (BadInput, Untrusted) as error:
        raise Failure(400, "InvalidModelException", str(error)) from error
    except OSError as error:
        message = f"the archive cannot be unpacked: {error.strerror or error}"
        raise Failure(507, "InsufficientStorageException", message) from error
    which = f'Model "{model.bundle.name}" Version: {model.bundle.version}'
    return f"{which} registered with {model.min_workers} initial workers"


async def _scale(models: Models, name: str, version: str | None, values: dict[str, str]) -> str:
    model = models.get(name, version)
    least, most = _workers(values, "min_worker"), _workers(values, "max_worker")
    workers = 1 if least is None else least
    if most is not None and most < workers:
        raise bad_request("max_worker cannot be less than min_worker.")
    await models.scale(model, workers)
    which = name if version is None else f"{name}, version: {version}"
    return f"Workers scaled to {workers} for model: {which}"


def _workers(values: dict[str, str], name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 2 or int(text) > 64:
        raise bad_request(f"{name} must be a whole number from 0 to 64")
    return int(text)


def _missing(message: str) -> Failure:
    return Failure(404, "ModelNotFoundException", message)


def _status(message: str) -> Reply:
    return json_response({"status": message})
