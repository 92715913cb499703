"""TorchServe's inference, health and metrics routes.

Parts of a path after the version are ignored, as in TorchServe.
"""

from typing import TYPE_CHECKING

from deploy.service import describe, row
from deploy.service.failure import no_resource
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import PROMETHEUS, Reply, answer_response, json_response

if TYPE_CHECKING:
    from deploy.service.app import App

METHODS = ["POST", "PUT", "GET"]


def add_routes(app: "App", models: Models) -> None:
    """Add TorchServe's routes; the app answers everything else."""

    @app.route("/predictions/<path:rest>", methods=METHODS)
    async def predictions(request: Request, rest: str) -> Reply:
        return await predict(models, request, request.segments)

    @app.route("/explanations/<path:rest>", methods=METHODS)
    async def explanations(request: Request, rest: str) -> Reply:
        return await predict(models, request, request.segments, explain=True)

    @app.route("/ping", "/ping/<path:rest>", methods=["GET", "POST"])
    def ping(request: Request, rest: str = "") -> Reply:
        health = models.health()
        return json_response({"status": health}, 500 if health == "Unhealthy" else 200)

    @app.route("/metrics")
    def metrics(request: Request) -> Reply:
        return Reply(models.metrics.text().encode(), content_type=PROMETHEUS)

    describe.add_routes(app, models)


async def predict(
    models: Models,
    request: Request,
    parts: list[str],
    explain: bool = False,
    queried: bool = False,
) -> Reply:
    """The handler's answer to this request, streamed if the client asked for that.

    `parts` are name and version; `queried`: the query string's parameters reach the handler as a
    form's fields do. Raises Failure.
    """
    if not parts or not parts[0]:
        raise no_resource()
    name, version = parts[0], parts[1] if len(parts) > 1 else None
    fields, headers = row.read(request.body, request.headers)
    if queried:
        fields = {**{key: value.encode() for key, value in request.args.items()}, **fields}
    if explain:
        headers["explain"] = "True"  # as TorchServe tells its workers
    return answer_response(*await models.stream(name, version, fields, headers, request.gone))
