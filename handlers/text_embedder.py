"""Text embeddings: texts in, vectors of length 1 out, and documents ranked by them."""

import base64
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from handlers.base import BaseHandler
from handlers.errors import ModelError, RequestError
from handlers.payload import MAX_INPUTS, Input, Request
from handlers.predictions import DRAFT, one_or_many
from handlers.texts import (
    MAX_REQUEST_TOKENS,
    MAX_WINDOWS,
    Encoder,
    Text,
    counted,
    every_length,
    few_and_many,
    load_tokenizer,
    outputs,
    padded_tokens,
)
from handlers.windows import mean_direction

PRECISIONS = ("float32", "int8")
FORMATS = ("float", "base64")
# An embedding's numbers are at most 1: so many decimals are as exact as float32.
_DECIMALS = 8


@dataclass
class Query:
    """A text to embed, and documents to rank by how near they are to it."""

    text: Text
    documents: list[str] = field(default_factory=list)
    encoded: list[Text] = field(default_factory=list)

    @property
    def windows(self) -> list[list[int]]:
        """Of all its texts."""
        return [window for text in (self.text, *self.encoded) for window in text.windows]


class TextEmbedder(BaseHandler):
    """Token ids [N, L], 0 for padding, to embeddings [N, width], answered as lists of numbers."""

    task = "text_embedding"
    parameters = ("precision", "encoding_format", "documents")
    unit = "tokens"
    limits = ("max_windows",)
    max_json = 4096

    def setup(self) -> None:
        self.max_length = int(self.card.input.get("max_length", 128))
        windows = int(self.card.input.get("max_windows", MAX_WINDOWS))
        self.encode = Encoder(load_tokenizer(self.folder), self.max_length, windows)
        ids = torch.tensor([[self.encode.first, self.encode.last]], dtype=torch.int32)
        answer = self.predict(ids)
        if answer.ndim != 2:
            raise ModelError(f"the model returns {list(answer.shape)}, not a vector a text")
        self.width = int(answer.shape[1])

    def preprocess(self, request: Request) -> list[Query]:
        self._precision(request)
        self._format(request)
        documents = self._documents(request)
        read = counted(self.max_bytes())

        def encoded(entry: Input) -> Text:
            return self.encode(read(entry), entry.where)

        queries = [Query(text) for text in request.load_inputs(encoded)]
        for index, document in enumerate(documents):
            entry = Input(document, where=f"documents[{index}]")
            queries[0].documents.append(document)
            queries[0].encoded.append(encoded(entry))
        return queries

    def cost(self, value: Query) -> float:
        """Padded tokens of all windows."""
        return padded_tokens(value.windows, self.max_length)

    def inference(self, inputs: list[Query]) -> list[Any]:
        texts = [text for query in inputs for text in (query.text, *query.encoded)]
        windows = [window for text in texts for window in text.windows]
        owner = torch.tensor([i for i, text in enumerate(texts) for _ in text.windows])
        rows = outputs(self.predict, windows, self.max_length, self.width)
        vectors = mean_direction(rows, owner, len(texts))
        found, start = [], 0
        for query in inputs:
            stop = start + 1 + len(query.encoded)
            found.append((query, vectors[start], vectors[start + 1 : stop]))
            start = stop
        return found

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        precision, form = self._precision(request), self._format(request)
        answers = []
        for query, vector, others in results:
            answer: dict[str, Any] = {}
            if query.documents:
                answer = _ranked(query.documents, others @ vector)
            answer |= _written(vector, precision, form)
            answer["windows"] = len(query.text.windows)
            answer["tokens"] = sum(map(len, query.text.windows))
            answers.append(answer)
        return answers if request.many else answers[0]

    def example(self) -> Query:
        return Query(every_length(self.encode, self.max_length))

    def request_limit(self) -> float:
        return MAX_REQUEST_TOKENS

    def trials(self) -> tuple[Query, Query]:
        few, many = few_and_many(self.encode, self.max_length)
        return Query(few), Query(many)

    # Parameters.

    def _precision(self, request: Request) -> str:
        return request.choice("precision", PRECISIONS, PRECISIONS[0])

    def _format(self, request: Request) -> str:
        return request.choice("encoding_format", FORMATS, FORMATS[0])

    def _documents(self, request: Request) -> list[str]:
        found = request.parameters.get("documents", [])
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise RequestError(400, "bad_parameter", "documents must be a list of texts")
        if len(found) > MAX_INPUTS:
            raise RequestError(413, "too_many_inputs", f"documents are {MAX_INPUTS} at most")
        if found and len(request.inputs) != 1:
            raise RequestError(
                400, "bad_parameter", "documents are ranked for one text: send one request a text"
            )
        return found

    def schemas(self) -> tuple[Any, Any]:
        text = {"type": "string", "minLength": 1}
        request = {
            "$schema": DRAFT,
            "description": "UTF-8 text as the raw body (text/plain), or JSON",
            "type": "object",
            "properties": {
                "text": {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]},
                "instances": {"type": "array", "minItems": 1},
                "precision": {"enum": list(PRECISIONS)},
                "encoding_format": {"enum": list(FORMATS)},
                "documents": {"type": "array", "items": text, "maxItems": MAX_INPUTS},
            },
            "x-text": {
                "max_bytes": self.max_bytes(),
                "max_request_tokens": self.budget.request,
                "max_tokens": self.encode.max_windows * self.encode.body,
                "window": self.max_length,
                "pooling": "mean of the windows' embeddings, scaled to length 1",
                "dimensions": self.width,
            },
        }
        numbers = {"type": "array", "items": {"type": "number"}}
        sized = {**numbers, "minItems": self.width, "maxItems": self.width}
        near = {
            "type": "object",
            "required": ["document", "index", "similarity"],
            "properties": {
                "document": {"type": "string"},
                "index": {"type": "integer", "minimum": 0},
                "similarity": {"type": "number", "minimum": -1, "maximum": 1},
            },
        }
        one = {
            "type": "object",
            "required": ["embedding", "windows", "tokens"],
            "properties": {
                "label": {"type": "string"},
                "ranking": {"type": "array", "items": near},
                "embedding": {"oneOf": [sized, {"type": "string"}]},
                "scale": {"type": "number", "exclusiveMinimum": 0},
                "windows": {"type": "integer", "minimum": 1},
                "tokens": {"type": "integer", "minimum": 1},
            },
        }
        return request, one_or_many(one)


def _ranked(documents: list[str], similarities: Tensor) -> dict[str, Any]:
    """The nearest document as `label`, and all of them, nearest first."""
    order = similarities.argsort(descending=True, stable=True).tolist()
    values = similarities.clamp(-1, 1).tolist()
    ranking = [
        {"document": documents[i], "index": i, "similarity": round(values[i], _DECIMALS)}
        for i in order
    ]
    return {"label": documents[order[0]], "ranking": ranking}


def quantized(vector: NDArray[np.float32]) -> tuple[NDArray[np.int8], float]:
    """An embedding in int8 and its scale: `vector` is about `scale * int8`.

    The scale is the vector's own, so that its largest number is 127; cosines need no scale.
    """
    scale = max(float(np.abs(vector).max()), 1e-12) / 127
    return np.rint(vector / scale).astype(np.int8), scale


def _written(vector: Tensor, precision: str, form: str) -> dict[str, Any]:
    """An embedding as JSON: a list, or base64 of its little-endian float32 or int8 numbers."""
    numbers: NDArray[Any] = vector.numpy()
    scale = {}
    if precision == "int8":
        numbers, step = quantized(numbers)
        scale = {"scale": step}
    if form == "base64":
        data = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
        return {"embedding": base64.b64encode(data).decode("ascii"), **scale}
    if precision == "int8":
        return {"embedding": numbers.tolist(), **scale}
    return {"embedding": numbers.astype(np.float64).round(_DECIMALS).tolist()}
