"""The OpenAPI 3.1 document of everything that the service's inference address answers."""

from typing import TYPE_CHECKING, Any

from deploy.service import binary
from deploy.service.kserve import INPUT_NAMES, LENGTH_HEADER
from deploy.service.models import Models
from deploy.service.openai import FORMATS
from deploy.service.request import Request
from deploy.service.responses import JSON, OCTETS, Reply, json_response

if TYPE_CHECKING:
    from deploy.service.app import App

_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer"},
        "type": {"type": "string"},
        "message": {"type": "string"},
    },
}
_SHORT_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}
_PREDICTION = {
    "description": "the model's answer; a stream of partial ones, a line each, and then the whole",
    "content": {JSON: {"schema": {}}, "application/jsonlines": {"schema": {}}},
}
_PREDICT = {"400", "404", "405", "413", "415", "422", "500", "501", "503", "504", "507"}


def add_route(app: "App", models: Models) -> None:
    """GET /openapi.json, and OPTIONS / where TorchServe has its own."""

    def openapi(request: Request) -> Reply:
        return json_response(document(models))

    app.route("/openapi.json")(openapi)
    app.route("/", methods=["OPTIONS"])(openapi)


def document(models: Models) -> dict[str, Any]:
    """The document for the models that are loaded now."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Marpress", "version": "1"},
        "paths": {
            **_torchserve(),
            **_sagemaker(),
            **_tensorflow(),
            **_kserve(),
            **_openai(),
            **_about(),
        },
        "components": {
            "schemas": {"Error": _ERROR, "ShortError": _SHORT_ERROR},
            "parameters": _parameters(models),
        },
    }


def _parameters(models: Models) -> dict[str, Any]:
    names = models.names()
    versions = sorted({m.bundle.version for name in names for m in models.versions(name)})
    return {
        "name": _path_parameter("name", names),
        "version": _path_parameter("version", versions),
        "describedVersion": _path_parameter("version", [*versions, "all"]),
    }


def _path_parameter(name: str, values: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if values:
        schema["enum"] = values
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _torchserve() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for verb in ("predictions", "explanations"):
        for tail, also in (("", []), ("/{version}", ["version"])):
            entry = {
                method: _operation(
                    f"{verb} by {method}{' of a version' if also else ''}",
                    _PREDICTION,
                    _PREDICT,
                    body=_any_body(),
                )
                for method in ("post", "put")
            }
            entry["get"] = _operation(
                f"{verb} by get{' of a version' if also else ''}",
                _PREDICTION,
                _PREDICT,
            )
            paths[f"/{verb}/{{name}}{tail}"] = _item(["name", *also], entry)
    listing = _answer({"type": "object", "required": ["models"]})
    paths["/models"] = {"get": _operation("list the models", listing, {"405"})}
    described = _answer({"type": "array", "minItems": 1, "items": {"type": "object"}})
    for tail, also in (("", []), ("/{version}", ["describedVersion"])):
        about = _operation("describe a model" + " version" * bool(also), described, {"403", "404"})
        paths[f"/models/{{name}}{tail}"] = _item(["name", *also], {"get": about})
    return paths


def _sagemaker() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for path, names in (
        ("/invocations", []),
        ("/models/{name}/invoke", ["name"]),
        ("/{name}/predict", ["name"]),
        ("/{name}/{version}/predict", ["name", "version"]),
    ):
        asked = _operation(f"POST {path}", _PREDICTION, _PREDICT, body=_any_body())
        paths[path] = _item(names, {"post": asked})
    return paths


def _openai() -> dict[str, Any]:
    wrong = {"type": "object", "required": ["error"]}
    text = {"schema": {"type": "string"}}
    said = _answer({"type": "object", "required": ["text"]})
    said["content"] |= {"text/plain": text, "text/vtt": text, "text/event-stream": text}
    form = {
        "type": "object",
        "required": ["file", "model"],
        "properties": {
            "file": {"type": "string", "format": "binary"},
            "model": {"type": "string"},
            "language": {"type": "string"},
            "response_format": {"enum": list(FORMATS)},
            "stream": {"type": "boolean"},
        },
    }
    body = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    spoken = _operation("transcribe a recording", said, _PREDICT, body=body)
    listing = _answer({"type": "object", "required": ["object", "data"]})
    paths = {
        "/v1/models": {"get": _operation("list the models for OpenAI's clients", listing, set())},
        "/v1/audio/transcriptions": {"post": spoken},
    }
    texts = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    wanted = {
        "type": "object",
        "required": ["input", "model"],
        "properties": {"input": texts, "model": {"type": "string"}},
    }
    body = {"required": True, "content": {JSON: {"schema": wanted}}}
    vectors = _answer({"type": "object", "required": ["object", "data", "model", "usage"]})
    embedded = _operation("embed texts", vectors, _PREDICT, body=body)
    paths["/v1/embeddings"] = {"post": embedded}
    for operation in (spoken, embedded):
        for status, response in operation["responses"].items():
            if status != "200":
                response["content"] = _json(wrong)["content"]
    return paths


def _about() -> dict[str, Any]:
    status = _answer({"type": "object", "required": ["status"]})
    text = {"description": "Prometheus text", "content": {"text/plain": {"schema": {}}}}
    return {
        "/ping": {m: _health(f"health by {m}", status, "500") for m in ("get", "post")},
        "/metrics": {"get": _operation("metrics", text, set())},
        "/openapi.json": {"get": _operation("this document", _answer({"type": "object"}), set())},
    }


def _tensorflow() -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "maxItems": 64}
    signature = {"signature_name": {"enum": ["", "serving_default"]}}
    request = {
        "oneOf": [
            {
                "type": "object",
                "required": ["instances"],
                "properties": {"instances": rows, **signature},
                "not": {"required": ["inputs"]},
            },
            {
                "type": "object",
                "required": ["inputs"],
                "properties": {"inputs": {"type": ["array", "object"]}, **signature},
                "not": {"required": ["instances"]},
            },
        ]
    }
    kind = {"type": "object", "minProperties": 1, "maxProperties": 1}
    states = _answer({"type": "object", "required": ["model_version_status"]})
    metadata = _answer({"type": "object", "required": ["model_spec", "metadata"]})
    paths: dict[str, Any] = {}
    for tail, also in (("", []), ("/versions/{version}", ["version"])):
        base, what = f"/v1/models/{{name}}{tail}", " of a version" * bool(also)
        status = _operation(f"TensorFlow Serving status{what}", states, {"404"}, short=True)
        paths[base] = _item(["name", *also], {"get": status})
        about = _operation(
            f"TensorFlow Serving metadata{what}", metadata, {"404", "500"}, short=True
        )
        paths[f"{base}/metadata"] = _item(["name", *also], {"get": about})
        predict = _operation(
            f"TensorFlow Serving predict{what}",
            _answer(kind),
            _PREDICT,
            body={"required": True, "content": {JSON: {"schema": request}}},
            short=True,
        )
        paths[f"{base}:predict"] = _item(["name", *also], {"post": predict})
    return paths


def _kserve() -> dict[str, Any]:
    whole = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {
            "name": {"enum": sorted(INPUT_NAMES)},
            "shape": {"type": "array", "items": whole, "minItems": 1, "maxItems": 8},
            "datatype": {"enum": list(binary.KINDS)},
            "parameters": {"type": "object"},
            "data": {"type": "array"},
        },
    }
    output = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
    }
    request = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": tensor},
            "outputs": {"type": "array", "items": output},
        },
    }
    answer = _answer({"type": "object", "required": ["model_name", "model_version", "outputs"]})
    answer["content"][OCTETS] = {"schema": {}}
    answer["headers"] = {LENGTH_HEADER: {"schema": {"type": "string"}, "required": False}}
    flag = {"type": "object"}
    paths: dict[str, Any] = {
        "/v2": {"get": _operation("server metadata", _answer(flag), set(), short=True)},
    }
    for word in ("live", "ready"):
        paths[f"/v2/health/{word}"] = {"get": _health(f"server {word}", _answer(flag), "503")}
    for tail, also in (("", []), ("/versions/{version}", ["version"])):
        base, what = f"/v2/models/{{name}}{tail}", " version" * bool(also)
        about = _operation(f"model{what} metadata", _answer(flag), {"404", "500"}, short=True)
        paths[base] = _item(["name", *also], {"get": about})
        ready = _operation(f"model{what} ready", _answer(flag), {"404"}, short=True)
        ready["responses"]["503"] = {"description": "not ready", **_json(flag)}
        paths[f"{base}/ready"] = _item(["name", *also], {"get": ready})
        infer = _operation(
            f"infer by a model{what}",
            answer,
            _PREDICT,
            body={"required": True, "content": {JSON: {"schema": request}}},
            short=True,
        )
        paths[f"{base}/infer"] = _item(["name", *also], {"post": infer})
    return paths


def _item(parameters: list[str], operations: dict[str, Any]) -> dict[str, Any]:
    named = [{"$ref": f"#/components/parameters/{name}"} for name in parameters]
    return {"parameters": named, **operations}


def _operation(
    summary: str,
    answer: dict[str, Any],
    errors: set[str],
    body: dict[str, Any] | None = None,
    short: bool = False,
) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{'ShortError' if short else 'Error'}"}
    responses = {"200": answer}
    for status in sorted(errors):
        responses[status] = {"description": f"refused with {status}", **_json(schema)}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = body
    return operation


def _health(summary: str, answer: dict[str, Any], status: str) -> dict[str, Any]:
    """An operation that tells in its body, and by its status, whether all is well."""
    operation = _operation(summary, answer, set(), short=True)
    operation["responses"][status] = {**answer, "description": "not well"}
    return operation


def _answer(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "done", **_json(schema)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {JSON: {"schema": schema}}}


def _any_body() -> dict[str, Any]:
    """Raw bytes, a form or JSON: the handler says what it takes (`describe?customized=true`)."""
    part = {"type": "object", "properties": {"data": {"type": "string", "format": "binary"}}}
    return {
        "content": {
            OCTETS: {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {"schema": part},
            JSON: {"schema": {}},
        }
    }
