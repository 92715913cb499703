"""KServe v2, the Open Inference Protocol: health, metadata and infer, with binary tensors.

https://github.com/kserve/open-inference-protocol. A request has one input tensor whose first
dimension counts the things to predict on: BYTES (an encoded picture, a recording, a text; a
string in JSON is base64 where the model takes no text) or numbers (pixels). The handler's
parameters travel under "parameters".
"""

import json
from typing import Any

from flask import Blueprint, Response, request

from deploy.service import binary, metadata, tensors
from deploy.service.failure import Failure, ModelMissing, VersionMissing, bad_request
from deploy.service.models import Model, Models
from deploy.service.responses import OCTETS, client_gone, error_response, json_response
from deploy.service.tensors import Tensor
from handlers import json_body
from handlers.errors import RequestError

VERSION = "0.1.0"
LENGTH_HEADER = "Inference-Header-Content-Length"
INPUT_NAMES = frozenset({"data", "image", "images", "text", "texts", "audio", "input", "inputs"})
# Parameters of the protocol and of Triton that mean nothing to a handler.
_PROTOCOL = frozenset(
    {"binary_data_output", "priority", "timeout", "sequence_id", "sequence_start", "sequence_end"}
)


def blueprint(models: Models) -> Blueprint:
    """The routes below /v2."""
    routes = Blueprint("kserve", __name__, url_prefix="/v2")

    @routes.get("")
    def server() -> Response:
        about = {"name": "marpress", "version": VERSION, "extensions": ["binary_tensor_data"]}
        return json_response(about)

    @routes.get("/health/live")
    def live() -> Response:
        live = models.live()
        return json_response({"live": live}, 200 if live else 503)

    @routes.get("/health/ready")
    def ready() -> Response:
        healthy = models.health() == "Healthy"
        return json_response({"ready": healthy}, 200 if healthy else 503)

    @routes.get("/models/<name>/ready")
    @routes.get("/models/<name>/versions/<version>/ready")
    def model_ready(name: str, version: str | None = None) -> Response:
        model = models.get(name, version)
        ready = model.running > 0
        return json_response({"name": name, "ready": ready}, 200 if ready else 503)

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/versions/<version>")
    def model_metadata(name: str, version: str | None = None) -> Response:
        inputs, outputs = metadata.signature(models.get(name, version))
        about = {
            "name": name,
            "versions": [model.bundle.version for model in models.versions(name)],
            "platform": "pytorch_torchscript",
            "inputs": [_declaration(t) for t in inputs],
            "outputs": [_declaration(t) for t in outputs],
        }
        return json_response(about)

    @routes.post("/models/<name>/infer")
    @routes.post("/models/<name>/versions/<version>/infer")
    def infer(name: str, version: str | None = None) -> Response:
        return _infer(models, name, version)

    @routes.errorhandler(Failure)
    def failed(failure: Failure) -> Response:
        if isinstance(failure, VersionMissing):
            which = f"'{failure.name}' version {failure.version}"
            return error_response(404, f"Request for unknown model: {which} is not found")
        if isinstance(failure, ModelMissing):
            return error_response(404, f"Request for unknown model: '{failure.name}' is not found")
        return error_response(failure.status, failure.message, failure)

    return routes


def _infer(models: Models, name: str, version: str | None) -> Response:
    model = models.get(name, version)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return error_response(
            415, "compressed bodies are not taken: send it without Content-Encoding"
        )
    head, raw = binary.split(request.get_data(cache=False), request.headers.get(LENGTH_HEADER))
    body = _object(head)
    instances = _instances(model, _inputs(body), raw)
    parameters = {k: v for k, v in _parameters(body).items() if k not in _PROTOCOL}
    row = {"body": {"instances": instances, "parameters": parameters}}
    answer = models.ask(
        name, version, row, {"content-type": "application/json"}, client_gone(request)
    )
    value = json.loads(answer.body)
    if answer.status >= 400:
        return error_response(answer.status, str(value.get("message", value)))
    named = tensors.columns([tensors.outputs(entry) for entry in tensors.per_input(value)])
    produced = [tensors.stacked(key, values) for key, values in named.items()]
    return _response(model, body, produced)


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


def _instances(model: Model, inputs: list[dict[str, Any]], raw: memoryview) -> list[Any]:
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
    if part is not None and metadata.takes_text(model):
        return [_text(value) for value in values]
    return values


def _text(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise bad_request(f"a text is not valid UTF-8: {failure}") from failure


def _response(model: Model, body: dict[str, Any], produced: list[Tensor]) -> Response:
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
    response = Response(head + b"".join(blobs), content_type=OCTETS)
    response.headers[LENGTH_HEADER] = str(len(head))
    return response


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
