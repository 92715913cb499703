"""OpenAI's embeddings, of a model that answers `embedding` and `tokens` for each text."""

from typing import Any

from deploy.service import tensors
from deploy.service.failure import Failure, bad_request, unprocessable
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import Reply, json_response
from handlers import json_body
from handlers.errors import RequestError

_FIELDS = frozenset({"input", "model", "encoding_format", "user"})


async def embed(models: Models, request: Request) -> Reply:
    """The embeddings of the request's `input`, a text or several. Raises Failure."""
    body = _body(request.body)
    name, texts = body.get("model"), body.get("input")
    if not isinstance(name, str):
        raise bad_request("you must provide a model: one of " + ", ".join(models.names()))
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise bad_request("input must be a text or a list of texts: tokens are not taken")
    asked: dict[str, Any] = {"text": texts}
    if "encoding_format" in body:
        asked["encoding_format"] = body["encoding_format"]
    headers = {"content-type": "application/json"}
    answer = await models.ask(name, None, {"body": asked}, headers, request.gone)
    if answer.status >= 400:
        raise tensors.refusal(answer.status, answer.body)
    found = tensors.value(answer.body)
    if not isinstance(found, list) or not all(_embeds(one) for one in found):
        raise unprocessable(f"the model {name!r} does not embed: it answers no embedding")
    tokens = sum(int(one.get("tokens", 0)) for one in found)
    data = [
        {"object": "embedding", "index": index, "embedding": one["embedding"]}
        for index, one in enumerate(found)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": name, "usage": usage})


def _embeds(one: Any) -> bool:
    return isinstance(one, dict) and "embedding" in one


def _body(data: bytes) -> dict[str, Any]:
    try:
        body = json_body.parse(data)
    except ValueError as error:
        raise bad_request(f"the request is no JSON: {error}") from error
    except RequestError as refusal:
        raise Failure(refusal.status, refusal.type, refusal.message) from refusal
    if not isinstance(body, dict):
        raise bad_request("the request must be a JSON object")
    unknown = [name for name in body if name not in _FIELDS]
    if unknown:
        raise bad_request(f"the field {unknown[0][:40]!r} is not taken here")
    return body
