"""OpenAI's transcriptions and embeddings, so that its clients change an address and nothing else.

`POST /v1/audio/transcriptions` takes a multipart form with `file`, `model` and, if wanted,
`language`, `response_format` (json, text, verbose_json, srt, vtt) and `stream`; `prompt` and
`temperature` change nothing, since decoding is greedy. What the model does not tell of a segment
(its tokens, its chances) is left out. `GET /v1/models` lists the models.

https://developers.openai.com/api/reference/resources/audio
"""

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from deploy.service import subtitles
from deploy.service.context import Answer
from deploy.service.embeddings import embed
from deploy.service.failure import Failure, bad_request, unprocessable
from deploy.service.form import boundary, multipart
from deploy.service.models import Models
from deploy.service.request import Request
from deploy.service.responses import Reply, json_response, retried

if TYPE_CHECKING:
    from deploy.service.app import App

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
EVENTS = "text/event-stream; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
_FIELDS = frozenset(
    {"file", "model", "language", "prompt", "response_format", "temperature", "stream"}
)
_LANGUAGE = "en"  # where the request names none: a model without languages knows English alone


def add_routes(app: "App", models: Models) -> None:
    """/v1/audio/transcriptions, /v1/embeddings and /v1/models."""

    @app.route("/v1/models", form=failed)
    def listing(request: Request) -> Reply:
        loaded = [(name, models.get(name)) for name in models.names()]
        data = [
            {"id": name, "object": "model", "created": int(model.loaded), "owned_by": "marpress"}
            for name, model in loaded
        ]
        return json_response({"object": "list", "data": data})

    @app.route("/v1/audio/transcriptions", methods=["POST"], form=failed)
    async def transcriptions(request: Request) -> Reply:
        return await _transcribe(models, request)

    @app.route("/v1/embeddings", methods=["POST"], form=failed)
    async def embeddings(request: Request) -> Reply:
        return await embed(models, request)


def failed(failure: Failure) -> Reply:
    """A failure in OpenAI's form."""
    kind = "invalid_request_error" if failure.status < 500 else "server_error"
    error = {"message": failure.message, "type": kind, "param": None, "code": failure.type}
    return retried(json_response({"error": error}, failure.status), failure)


async def _transcribe(models: Models, request: Request) -> Reply:
    fields = _form(request)
    name = _text(fields, "model")
    if not name:
        raise bad_request("you must provide a model: one of " + ", ".join(models.names()))
    if "file" not in fields:
        raise bad_request("you must provide a file: the recording")
    form = _text(fields, "response_format") or "json"
    if form not in FORMATS:
        raise bad_request(f"response_format must be one of {', '.join(FORMATS)}")
    streams = _text(fields, "stream").lower() in ("true", "1")
    if streams and form not in ("json", "text"):
        raise bad_request(f"stream and response_format {form} do not go together")
    row: dict[str, Any] = {"data": fields["file"]}
    language = _text(fields, "language")
    if language:
        row["language"] = language.encode()
    headers: dict[str, Any] = {"content-type": "multipart/form-data", "data": {"content-type": ""}}
    if not streams:
        answer = await models.ask(name, None, row, headers, request.gone)
        return _reply(_transcript(name, answer), form, language or _LANGUAGE)
    row["stream"] = b"true"
    first, answers = await models.stream(name, None, row, headers, request.gone)
    if not first.partial:
        _transcript(name, first)  # raises what it refuses with
    return Reply(b"", content_type=EVENTS, more=_events(name, first, answers))


def _form(request: Request) -> dict[str, bytes]:
    mark = boundary(request.header("content-type"))
    if mark is None:
        raise bad_request("the request must be a multipart/form-data form")
    fields = {name: value for name, _, value in multipart(request.body, mark)}
    unknown = [name for name in fields if name.partition("[")[0] not in _FIELDS | _IGNORED]
    if unknown:
        raise bad_request(f"the field {unknown[0][:40]!r} is not taken here")
    return fields


_IGNORED = frozenset({"timestamp_granularities", "chunking_strategy", "include"})


def _text(fields: dict[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace").strip()


def _transcript(name: str, answer: Answer) -> dict[str, Any]:
    """A handler's answer as `text`, `segments` and `duration`. Raises Failure."""
    try:
        value = json.loads(answer.body)
    except ValueError:
        value = {"text": answer.body.decode("utf-8", "replace")}
    if answer.status >= 400:
        about = value if isinstance(value, dict) else {}
        message = str(about.get("message", value))
        raise Failure(answer.status, str(about.get("type", "model_error")), message)
    if isinstance(value, str):
        value = {"text": value}
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise unprocessable(f"the model {name!r} does not transcribe: it answers no text")
    return value


def _reply(transcript: dict[str, Any], form: str, language: str) -> Reply:
    text = transcript["text"]
    segments = subtitles.segments(transcript)
    if form == "json":
        return json_response({"text": text})
    if form == "text":
        return Reply(f"{text}\n".encode(), content_type=TEXT)
    if form == "srt":
        return Reply(subtitles.srt(segments).encode(), content_type=TEXT)
    if form == "vtt":
        return Reply(subtitles.vtt(segments).encode(), content_type="text/vtt; charset=utf-8")
    told = [{"id": number, **segment} for number, segment in enumerate(segments)]
    return json_response(
        {
            "task": "transcribe",
            "language": language,
            "duration": transcript.get("duration"),
            "text": text,
            "segments": told,
        }
    )


async def _events(name: str, first: Answer, answers: AsyncIterator[Answer]) -> AsyncIterator[bytes]:
    """Server-sent events: a delta for each segment, then the whole text."""
    answer, space = first, ""
    while answer.partial:
        segment = json.loads(answer.body).get("segment", {})
        text = str(segment.get("text", ""))
        yield _event({"type": "transcript.text.delta", "delta": space + text})
        space = " "
        answer = await anext(answers)
    try:
        whole = _transcript(name, answer)["text"]
    except Failure as failure:
        yield _event(json.loads(failed(failure).body))
        return
    if not space and whole:
        yield _event({"type": "transcript.text.delta", "delta": whole})
    yield _event({"type": "transcript.text.done", "text": whole})


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
