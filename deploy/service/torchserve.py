"""TorchServe's inference, health and metrics routes.

Parts of a path after the version are ignored, as in TorchServe.
"""

from flask import Flask, Response, request

from deploy.service import describe, row
from deploy.service.failure import no_resource
from deploy.service.models import Models
from deploy.service.paths import segments
from deploy.service.responses import PROMETHEUS, answer_response, client_gone, json_response

METHODS = ["POST", "PUT", "GET"]


def add_routes(app: Flask, models: Models) -> None:
    """Add TorchServe's routes; the app's error handlers answer everything else."""

    @app.route("/predictions/<path:rest>", methods=METHODS)
    def predictions(rest: str) -> Response:
        return predict(models, segments(request))

    @app.route("/explanations/<path:rest>", methods=METHODS)
    def explanations(rest: str) -> Response:
        return predict(models, segments(request), explain=True)

    @app.route("/ping", methods=["GET", "POST"])
    @app.route("/ping/<path:rest>", methods=["GET", "POST"])
    def ping(rest: str = "") -> Response:
        health = models.health()
        return json_response({"status": health}, 500 if health == "Unhealthy" else 200)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(models.metrics.text(), content_type=PROMETHEUS)

    describe.add_routes(app, models)


def predict(models: Models, parts: list[str], explain: bool = False) -> Response:
    """The handler's answer to this request, streamed if the client asked for that.

    `parts` are name and version. Raises Failure.
    """
    if not parts or not parts[0]:
        raise no_resource()
    name, version = parts[0], parts[1] if len(parts) > 1 else None
    models.get(name, version)  # an unknown model needs no reading of the body
    fields, headers = row.read(request.get_data(cache=False), request.headers.items())
    if explain:
        headers["explain"] = "True"  # as TorchServe tells its workers
    answers = models.stream(name, version, fields, headers, client_gone(request))
    return answer_response(next(answers), answers)
