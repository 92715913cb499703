"""KServe v2, the Open Inference Protocol: health, metadata and infer, with binary tensors.

https://github.com/kserve/open-inference-protocol. A request has one input tensor whose first
dimension counts the things to predict on: BYTES (an encoded picture, a recording, a text; a
string in JSON is base64 where the model takes no text) or numbers (pixels). The handler's
parameters travel under "parameters".
"""

import json
from typing import TYPE_CHECKING, Any

from deploy.service import binary, metadata, tensors
from deploy.service.failure import Failure, ModelMissing, VersionMissing, bad_request
from deploy.service.models import Model, Models
from deploy.service.request import Request
from deploy.service.responses import JSON, OCTETS, Reply, error_response, json_response
from deploy.service.tensors import Tensor
from handlers import json_body
from handlers.errors import RequestError

if TYPE_CHECKING:
    from deploy.service.app import App

VERSION = "0.1.0"
LENGTH_HEADER = "Inference-Header-Content-Length"
INPUT_NAMES = frozenset({"data", "image", "images", "text", "texts", "audio", "input", "inputs"})
# Parameters of the protocol and of Triton that mean nothing to a handler.
_PROTOCOL = frozenset(
    {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"}
)


def add_routes(app: "App", models: Models) -> None:
    """The routes below /v2."""
    base = "/v2/models/<name>"
    of_version = f"{base}/versions/<version>"

    @app.route("/v2", form=failed)
    def server(request: Request) -> Reply:
        about = {"name": "marpress", "version": VERSION, "extensions": ["binary_tensor_data"]}
        return json_response(about)

    @app.route("/v2/health/live", form=failed)
    def live(request: Request) -> Reply:
        return json_response({"live": True})

    @app.route("/v2/health/ready", form=failed)
    def ready(request: Request) -> Reply:
        healthy = models.health() == "Healthy"
        return json_response({"ready": healthy}, 200 if healthy else 503)

    @app.route(f"{base}/ready", f"{of_version}/ready", form=failed)
    def model_ready(request: Request, name: str, version: str | None = None) -> Reply:
        ready = models.get(name, version).running > 0
        return json_response({"name": name, "ready": ready}, 200 if ready else 503)

    @app.route(base, of_version, form=failed)
    async def model_metadata(request: Request, name: str, version: str | None = None) -> Reply:
        inputs, outputs = await metadata.signature(models.get(name, version))
        about = {
            "name": name,
            "versions": [model.bundle.version for model in models.versions(name)],
            "platform": "pytorch_torchscript",
            "inputs": [_declaration(t) for t in inputs],
            "outputs": [_declaration(t) for t in outputs],
        }
        return json_response(about)

    @app.route(f"{base}/infer", f"{of_version}/infer", methods=["POST"], form=failed)
    async def infer(request: Request, name: str, version: str | None = None) -> Reply:
        return await _infer(models, request, name, version)


def failed(failure: Failure) -> Reply:
    """A failure in KServe's form and words."""
    if isinstance(failure, VersionMissing):
        which = f"'{failure.name}' version {failure.version}"
        return error_response(404, f"Request for unknown model: {which} is not found")
    if isinstance(failure, ModelMissing):
        return error_response(404, f"Request for unknown model: '{failure.name}' is not found")
    return error_response(failure.status, failure.message, failure)


async def _infer(models: Models, request: Request, name: str, version: str | None) -> Reply:
    model = models.get(name, version)
    if request.header("content-encoding", "identity").lower() != "identity":
        return error_response(
            415, "compressed bodies are not taken: send it without Content-Encoding"
        )
    if await metadata.tensors_of(model):
        return await _passed_on(models, request, name, version)
    head, raw = binary.split(request.body, request.header(LENGTH_HEADER.lower()) or None)
    body = _object(head)
    instances = await _instances(model, _inputs(body), raw)
    parameters = {k: v for k, v in _parameters(body).items() if k not in _PROTOCOL}
    row = {"body": {"instances": instances, "parameters": parameters}}
    headers = {"content-type": "application/json"}
    answer = await models.ask(name, version, row, headers, request.gone)
    if answer.status >= 400:
        return failed(tensors.refusal(answer.status, answer.body))
    told = tensors.per_input(tensors.value(answer.body))
    named = tensors.columns([tensors.outputs(entry) for entry in told])
    produced = [tensors.stacked(key, values) for key, values in named.items()]
    return _response(model, body, produced)


async def _passed_on(models: Models, request: Request, name: str, version: str | None) -> Reply:
    """The answer of a handler that speaks the protocol itself."""
    headers = {LENGTH_HEADER.lower(): request.header(LENGTH_HEADER.lower())}
    headers = {key: value for key, value in headers.items() if value}
    headers["content-type"] = JSON if not headers else OCTETS
    answer = await models.ask(name, version, {"body": request.body}, headers, request.gone)
    if answer.status >= 400:
        return failed(tensors.refusal(answer.status, answer.body))
    return Reply(answer.body, answer.status, answer.content_type, answer.headers)


def _object(head: bytes) -> dict[str, Any]:
    try:
        body = json_body.parse(head)
    except ValueError as failure:
        raise bad_request(f"failed to parse the request JSON: {failure}") from failure
    except RequestError as refusal:
        raise Failure(refusal.status, refusal.type, refusal.message) from refusal
    if not isinstance(body, dict):
        raise bad_request("the request must be a JSON object")
    return body


def _inputs(body: dict[str, Any]) -> list[dict[str, Any]]:
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise bad_request('the request must hold its tensors under "inputs"')
    for entry in inputs:
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise bad_request("every input must be an object with a name")
    return inputs


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise bad_request("parameters must be an object")
    return parameters


async def _instances(model: Model, inputs: list[dict[str, Any]], raw: memoryview) -> list[Any]:
    """The rows of the one input tensor, its binary data cut from `raw`."""
    if len(inputs) != 1 or inputs[0]["name"] not in INPUT_NAMES:
        names = ", ".join(repr(entry["name"][:40]) for entry in inputs[:4])
        raise bad_request(
            f"unexpected inference inputs {names} for model '{model.bundle.name}': "
            f"send one of {', '.join(sorted(INPUT_NAMES))}"
        )
    size = _parameters(inputs[0]).get("binary_data_size")
    if size is None:
        size, part = 0, None
    elif isinstance(size, bool) or not isinstance(size, int):
        raise bad_request("binary_data_size must be a whole number")
    else:
        part = raw
    if size != len(raw):
        raise bad_request(f"the body holds {len(raw)} bytes of binary data, {size} are announced")
    values = binary.rows(inputs[0], part)
    if part is not None and await metadata.takes_text(model):
        return [_text(value) for value in values]
    return values


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise bad_request(f"a text is not valid UTF-8: {failure}") from failure


def _response(model: Model, body: dict[str, Any], produced: list[Tensor]) -> Reply:
    """The requested outputs, each in JSON or binary as requested."""
    requested = _requested_outputs(body, model, produced)
    everything = _parameters(body).get("binary_data_output") is True
    about: dict[str, Any] = {
        "model_name": model.bundle.name,
        "model_version": model.bundle.version,
        "outputs": [],
    }
    if isinstance(body.get("id"), str):
        about["id"] = body["id"]
    blobs: list[bytes] = []
    for tensor in produced:
        if tensor.name not in requested:
            continue
        entry: dict[str, Any] = _declaration(tensor)
        if requested[tensor.name].get("binary_data", everything) is True:
            blobs.append(binary.encode(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.data
        about["outputs"].append(entry)
    if not blobs:
        return json_response(about)
    head = json.dumps(about).encode("ascii")
    headers = {LENGTH_HEADER: str(len(head))}
    return Reply(head + b"".join(blobs), content_type=OCTETS, headers=headers)


def _requested_outputs(
    body: dict[str, Any], model: Model, produced: list[Tensor]
) -> dict[str, dict[str, Any]]:
    """Output name -> its parameters; all outputs if the request lists none."""
    names = {tensor.name for tensor in produced}
    entries = body.get("outputs")
    if entries is None or entries == []:
        return {name: {} for name in names}
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise bad_request("outputs must be a list of objects")
    for entry in entries:
        if not isinstance(entry.get("name"), str) or entry["name"] not in names:
            name = str(entry.get("name"))[:40]
            raise bad_request(
                f"unexpected inference output '{name}' for model '{model.bundle.name}'"
            )
    return {entry["name"]: _parameters(entry) for entry in entries}


def _declaration(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.kind, "shape": list(tensor.shape)}
