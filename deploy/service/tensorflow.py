"""TensorFlow Serving's REST API, so that its clients change a host name and nothing else.

https://www.tensorflow.org/tfx/serving/api_rest. Versions are the archives' own, which need not
be numbers. `instances` (one answer per instance under "predictions") and `inputs` (one list per
output under "outputs") are taken; a value {"b64": "..."} is bytes. `classify` and `regress`
take TensorFlow's own Example records and are not there.
"""

import json
from typing import Any

from flask import Blueprint, Response, request

from deploy.service import metadata, tensors
from deploy.service.failure import Failure, ModelMissing, VersionMissing
from deploy.service.models import Model, Models
from deploy.service.responses import client_gone, error_response, json_response
from handlers import json_body
from handlers.errors import RequestError

SIGNATURE = "serving_default"
_TYPES = {"BOOL": "DT_BOOL", "INT64": "DT_INT64", "FP32": "DT_FLOAT", "BYTES": "DT_STRING"}


def blueprint(models: Models) -> Blueprint:
    """The routes below /v1/models."""
    routes = Blueprint("tensorflow", __name__, url_prefix="/v1/models")

    @routes.get("/<name>")
    @routes.get("/<name>/versions/<version>")
    def status(name: str, version: str | None = None) -> Response:
        try:
            chosen = models.versions(name) if version is None else [models.get(name, version)]
        except Failure:
            what = f"version {version}" if version is not None else "any versions"
            message = f"Could not find {what} of model {name}"
            return error_response(404, message)
        return json_response({"model_version_status": [_status(model) for model in chosen]})

    @routes.get("/<name>/metadata")
    @routes.get("/<name>/versions/<version>/metadata")
    def model_metadata(name: str, version: str | None = None) -> Response:
        return json_response(_metadata(models.get(name, version)))

    @routes.post("/<name>:predict")
    @routes.post("/<name>/versions/<version>:predict")
    def predict(name: str, version: str | None = None) -> Response:
        return _predict(models, name, version)

    @routes.errorhandler(Failure)
    def failed(failure: Failure) -> Response:
        if isinstance(failure, VersionMissing):
            which = f"Specific({failure.name}, {failure.version})"
            return error_response(404, f"Servable not found for request: {which}")
        if isinstance(failure, ModelMissing):
            return error_response(404, f"Servable not found for request: Latest({failure.name})")
        return error_response(failure.status, failure.message, failure)

    return routes


def _predict(models: Models, name: str, version: str | None) -> Response:
    models.get(name, version)
    body = _body(request.get_data(cache=False))
    signature = body.pop("signature_name", "") or SIGNATURE
    if signature != SIGNATURE:
        return error_response(
            400, f'Serving signature name: "{signature}" not found in signature def'
        )
    columnar = "inputs" in body
    if columnar == ("instances" in body):
        return error_response(400, 'JSON Value: the body must hold either "instances" or "inputs"')
    rows = _rows(body.pop("inputs")) if columnar else body.pop("instances")
    row = {"body": {"instances": rows, **body}}
    answer = models.ask(
        name, version, row, {"content-type": "application/json"}, client_gone(request)
    )
    value = json.loads(answer.body)
    if answer.status >= 400:
        return error_response(answer.status, str(value.get("message", value)))
    outputs = [tensors.outputs(entry) for entry in tensors.per_input(value)]
    if columnar:
        return json_response({"outputs": _unwrapped(tensors.columns(outputs))})
    return json_response({"predictions": [_unwrapped(named) for named in outputs]})


def _unwrapped(named: dict[str, Any]) -> Any:
    """The outputs by name; a single one without its name, as TensorFlow Serving does it."""
    return next(iter(named.values())) if len(named) == 1 else named


def _body(data: bytes) -> dict[str, Any]:
    """The JSON object of the request, whatever Content-Type it came under (TF Serving's rule)."""
    try:
        value = json_body.parse(data)
    except ValueError as failure:
        raise Failure(400, "bad_json", f"JSON Parse error: {failure}") from failure
    except RequestError as refusal:
        raise Failure(refusal.status, refusal.type, refusal.message) from refusal
    if not isinstance(value, dict):
        raise Failure(400, "bad_json", "JSON Value: the body must be an object")
    return value


def _rows(inputs: Any) -> Any:
    """Columns to rows: {"image": [a, b]} to [{"image": a}, {"image": b}]; a list is rows."""
    if not isinstance(inputs, dict) or set(inputs) == {"b64"}:
        return inputs if isinstance(inputs, list) else [inputs]
    lengths = {len(c) if isinstance(c, list) else -1 for c in inputs.values()}
    if len(lengths) != 1 or -1 in lengths:
        raise Failure(400, "bad_json", 'JSON Value: the lists under "inputs" must be equally long')
    return [dict(zip(inputs, entry, strict=True)) for entry in zip(*inputs.values(), strict=True)]


def _status(model: Model) -> dict[str, Any]:
    return {
        "version": model.bundle.version,
        "state": "AVAILABLE" if model.running else "END",
        "status": {"error_code": "OK", "error_message": ""},
    }


def _metadata(model: Model) -> dict[str, Any]:
    inputs, produced = metadata.signature(model)
    definition = {
        "inputs": {t.name: _info(t) for t in inputs},
        "outputs": {t.name: _info(t) for t in produced},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {
            "name": model.bundle.name,
            "signature_name": "",
            "version": model.bundle.version,
        },
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: definition}}},
    }


def _info(tensor: tensors.Tensor) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in tensor.shape]
    return {
        "dtype": _TYPES[tensor.kind],
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{tensor.name}:0",
    }
