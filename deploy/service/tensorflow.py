"""TensorFlow Serving's REST API, so that its clients change a host name and nothing else.

https://www.tensorflow.org/tfx/serving/api_rest. Versions are the archives' own, which need not
be numbers. `instances` (one answer per instance under "predictions") and `inputs` (one list per
output under "outputs") are taken; a value {"b64": "..."} is bytes. `classify` and `regress`
take TensorFlow's own Example records and are not there.
"""

from typing import TYPE_CHECKING, Any

from deploy.service import metadata, tensors
from deploy.service.failure import Failure, ModelMissing, VersionMissing
from deploy.service.models import Model, Models
from deploy.service.request import Request
from deploy.service.responses import Reply, error_response, json_response
from handlers import json_body
from handlers.errors import RequestError

if TYPE_CHECKING:
    from deploy.service.app import App

SIGNATURE = "serving_default"
_TYPES = {
    "UINT8": "DT_UINT8",
    "INT8": "DT_INT8",
    "INT16": "DT_INT16",
    "INT32": "DT_INT32",
    "FP16": "DT_HALF",
    "BF16": "DT_BFLOAT16",
    "FP64": "DT_DOUBLE",
    "BOOL": "DT_BOOL",
    "INT64": "DT_INT64",
    "FP32": "DT_FLOAT",
    "BYTES": "DT_STRING",
}


def add_routes(app: "App", models: Models) -> None:
    """The routes below /v1/models/NAME."""
    base = "/v1/models/<name>"
    of_version = f"{base}/versions/<version>"

    @app.route(base, of_version, form=failed)
    def status(request: Request, name: str, version: str | None = None) -> Reply:
        try:
            chosen = models.versions(name) if version is None else [models.get(name, version)]
        except Failure:
            what = f"version {version}" if version is not None else "any versions"
            message = f"Could not find {what} of model {name}"
            return error_response(404, message)
        return json_response({"model_version_status": [_status(model) for model in chosen]})

    @app.route(f"{base}/metadata", f"{of_version}/metadata", form=failed)
    async def model_metadata(request: Request, name: str, version: str | None = None) -> Reply:
        return json_response(await _metadata(models.get(name, version)))

    @app.route(f"{base}:predict", f"{of_version}:predict", methods=["POST"], form=failed)
    async def predict(request: Request, name: str, version: str | None = None) -> Reply:
        return await _predict(models, request, name, version)


def failed(failure: Failure) -> Reply:
    """A failure in TensorFlow Serving's form and words."""
    if isinstance(failure, VersionMissing):
        which = f"Specific({failure.name}, {failure.version})"
        return error_response(404, f"Servable not found for request: {which}")
    if isinstance(failure, ModelMissing):
        return error_response(404, f"Servable not found for request: Latest({failure.name})")
    return error_response(failure.status, failure.message, failure)


async def _predict(models: Models, request: Request, name: str, version: str | None) -> Reply:
    models.get(name, version)
    body = _body(request.body)
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
    headers = {"content-type": "application/json"}
    answer = await models.ask(name, version, row, headers, request.gone)
    if answer.status >= 400:
        return failed(tensors.refusal(answer.status, answer.body))
    told = tensors.per_input(tensors.value(answer.body))
    outputs = [tensors.outputs(entry) for entry in told]
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


async def _metadata(model: Model) -> dict[str, Any]:
    inputs, produced = await metadata.signature(model)
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
