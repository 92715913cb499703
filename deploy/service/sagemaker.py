"""Amazon SageMaker: what its containers are told, and the routes that it calls.

It starts a container with the model under /opt/ml/model and asks `GET /ping` (TorchServe's) and
`POST /invocations`; `POST /models/NAME/invoke` is its multi-model endpoints'. TorchServe has the
same routes, and the older `/NAME/predict`: there, the query string's parameters reach the handler.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import BadInput
from deploy.service import torchserve
from deploy.service.failure import bad_request
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import Reply

if TYPE_CHECKING:
    from deploy.service.app import App

MODEL_DIR = "/opt/ml/model"
PORT = 8080


def add_routes(app: "App", models: Models) -> None:
    """/invocations, and TorchServe's other routes that take parameters from the query string."""
    methods = torchserve.METHODS

    @app.route("/invocations", methods=methods)
    async def invocations(request: Request) -> Reply:
        name = request.args.get("model_name") or _only(models)
        return await torchserve.predict(models, request, [name], queried=True)

    @app.route("/models/<name>/invoke", methods=methods)
    async def invoke(request: Request, name: str) -> Reply:
        return await torchserve.predict(models, request, [name], queried=True)

    @app.route("/<name>/predict", methods=methods)
    @app.route("/<name>/<version>/predict", methods=methods)
    async def legacy(request: Request, name: str, version: str = "") -> Reply:
        parts = [name, version] if version else [name]
        return await torchserve.predict(models, request, parts, queried=True)


def archives(environment: Mapping[str, str]) -> list[Path]:
    """The archives of the folder that SageMaker puts the model into. Raises BadInput."""
    folder = Path(environment.get("SM_MODEL_DIR") or MODEL_DIR)
    found = sorted(folder.glob("*.mar"))
    if not found:
        raise BadInput(f"no archive (*.mar) in {folder}: pack it into model.tar.gz, at the top")
    return found


def port(environment: Mapping[str, str]) -> int:
    """The port that SageMaker asks for. Raises BadInput."""
    text = environment.get("SAGEMAKER_BIND_TO_PORT") or str(PORT)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise BadInput(f"SAGEMAKER_BIND_TO_PORT={text} is no port")
    return int(text)


def _only(models: Models) -> str:
    names = models.names()
    if len(names) != 1:
        raise bad_request("Parameter model_name is required.")
    return names[0]
