"""Text classification: texts in, labels with calibrated probabilities out."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from handlers import attribution
from handlers.attribution import Array
from handlers.base import BaseHandler
from handlers.errors import ModelError
from handlers.payload import Input, Request
from handlers.predictions import DRAFT, one_or_many, prediction
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
from handlers.windows import pool

DEFAULT_TOP_K = 5
# Most evaluations of one explanation: its bound in time.
MAX_WORDS, MAX_SHAP_WORDS, SHAP_EVALUATIONS = 256, 48, 256
METHODS = ("ablation", "shap")


class TextClassifier(BaseHandler):
    """Token ids [N, L], 0 for padding, to logits [N, labels], answered as the top_k labels."""

    task = "text_classification"
    parameters = ("top_k", "threshold", "method", "target")
    unit = "tokens"
    limits = ("max_windows",)
    max_json = 4096

    def setup(self) -> None:
        if not self.card.labels:
            raise ModelError("the model card has no labels: a text classifier needs them")
        self.max_length = int(self.card.input.get("max_length", 128))
        self.multi_label = bool(self.card.input.get("multi_label", False))
        windows = int(self.card.input.get("max_windows", MAX_WINDOWS))
        self.encode = Encoder(load_tokenizer(self.folder), self.max_length, windows)

    def preprocess(self, request: Request) -> list[Text]:
        self._top_k(request)
        self._threshold(request)
        method = request.choice("method", METHODS, METHODS[0])
        label = request.choice("target", self.card.labels, None)
        target = None if label is None else self.card.labels.index(label)

        read = counted(self.max_bytes())

        def load(entry: Input) -> Text:
            text = self.encode(read(entry), entry.where, words=request.explain)
            text.explain, text.target, text.method = request.explain, target, method
            return text

        return request.load_inputs(load)

    def cost(self, value: Text) -> float:
        """Padded tokens of all windows that are computed."""
        tokens = padded_tokens(value.windows, self.max_length)
        if not value.explain:
            return tokens
        if value.method == "shap":
            return tokens * (1 + SHAP_EVALUATIONS)
        # Leaving one run of words out changes one window, or two.
        return tokens * (1 + min(len(value.words), MAX_WORDS) / len(value.windows))

    def inference(self, inputs: list[Text]) -> list[Any]:
        owner = [i for i, text in enumerate(inputs) for _ in text.windows]
        logits = self._logits([window for text in inputs for window in text.windows])
        pooled = pool(logits, torch.tensor(owner), len(inputs))
        probabilities = pooled.sigmoid() if self.multi_label else pooled.softmax(1)
        return [
            (text, row, self._explain(text, row) if text.explain else None)
            for text, row in zip(inputs, probabilities, strict=True)
        ]

    def postprocess(self, request: Request, results: list[Any]) -> Any:
        top_k, threshold = self._top_k(request), self._threshold(request)
        answers = []
        for text, probabilities, explanation in results:
            values, indices = probabilities.topk(top_k)
            answer: dict[str, Any] = {
                "predictions": [
                    {"label": self.card.labels[index], "index": index, "probability": value}
                    for value, index in zip(values.tolist(), indices.tolist(), strict=True)
                ]
            }
            if self.multi_label:
                answer["labels"] = [
                    label
                    for label, value in zip(self.card.labels, probabilities.tolist(), strict=True)
                    if value >= threshold
                ]
            answer["windows"] = len(text.windows)
            if explanation is not None:
                answer["explanation"] = explanation
            answers.append(answer)
        return answers if request.many else answers[0]

    def example(self) -> Text:
        return every_length(self.encode, self.max_length)

    def request_limit(self) -> float:
        return MAX_REQUEST_TOKENS

    def trials(self) -> tuple[Text, Text]:
        return few_and_many(self.encode, self.max_length)

    def _logits(self, windows: list[list[int]]) -> torch.Tensor:
        """Logits of windows `[windows, labels]`."""
        return outputs(self.predict, windows, self.max_length, len(self.card.labels))

    # Explanations.

    def _explain(self, text: Text, probabilities: torch.Tensor) -> dict[str, Any]:
        """Attributions of the text's words to the log-odds of one label."""
        target = int(probabilities.argmax()) if text.target is None else text.target
        limit = MAX_WORDS if text.method == "ablation" else MAX_SHAP_WORDS
        runs = attribution.groups(len(text.words), limit)

        def score(masks: np.ndarray[Any, np.dtype[np.bool_]]) -> Array:
            return self._log_odds(text, runs, masks, target)

        if text.method == "ablation":
            values, evaluations = attribution.ablation(score, len(runs))
        else:
            values, evaluations = attribution.shap(score, len(runs), SHAP_EVALUATIONS)
        words = [
            {
                "text": text.text[text.words[a][0] : text.words[b - 1][1]],
                "start": text.words[a][0],
                "end": text.words[b - 1][1],
                "attribution": float(value),
            }
            for (a, b), value in zip(runs, values, strict=True)
        ]
        return {
            "label": self.card.labels[target],
            "method": text.method,
            "evaluations": evaluations,
            "words": words,
        }

    def _log_odds(
        self,
        text: Text,
        runs: list[tuple[int, int]],
        masks: np.ndarray[Any, np.dtype[np.bool_]],
        target: int,
    ) -> Array:
        """Log-odds of the target for each mask `[evaluations, runs]`.

        The tokens of a masked word become padding. Only windows that differ are computed: most
        masks change one window of a long text.
        """
        rows: dict[tuple[int, ...], int] = {}
        used: list[list[int]] = []
        for mask in masks:
            windows = [list(window) for window in text.windows]
            for keep, (a, b) in zip(mask, runs, strict=True):
                if not keep:
                    for window, start, stop in _pieces(text, a, b):
                        windows[window][start:stop] = [0] * (stop - start)
            used.append([rows.setdefault(tuple(window), len(rows)) for window in windows])
        logits = self._logits([list(window) for window in rows])
        pooled = torch.stack([logits[chosen].mean(0) for chosen in used]).double()
        if self.multi_label:
            return pooled[:, target].numpy()
        others = [i for i in range(pooled.shape[1]) if i != target]
        return (pooled[:, target] - pooled[:, others].logsumexp(1)).numpy()

    # Parameters.

    def _top_k(self, request: Request) -> int:
        labels = len(self.card.labels)
        return request.integer("top_k", min(DEFAULT_TOP_K, labels), 1, labels)

    def _threshold(self, request: Request) -> float:
        return request.number("threshold", 0.5, 0, 1)

    def schemas(self) -> tuple[Any, Any]:
        labels = len(self.card.labels)
        text = {"type": "string", "minLength": 1}
        request = {
            "$schema": DRAFT,
            "description": "UTF-8 text as the raw body (text/plain), or JSON",
            "type": "object",
            "properties": {
                "text": {"oneOf": [text, {"type": "array", "items": text, "minItems": 1}]},
                "instances": {"type": "array", "minItems": 1},
                "top_k": {"type": "integer", "minimum": 1, "maximum": labels},
                "threshold": {"type": "number", "minimum": 0, "maximum": 1},
                "method": {"enum": list(METHODS)},
                "target": {"enum": self.card.labels},
            },
            "x-text": {
                "max_bytes": self.max_bytes(),
                "max_request_tokens": self.budget.request,
                "max_tokens": self.encode.max_windows * self.encode.body,
                "window": self.max_length,
                "pooling": "mean of the windows' logits",
            },
        }
        one = {
            "type": "object",
            "required": ["predictions", "windows"],
            "properties": {
                "predictions": {"type": "array", "items": prediction(labels)},
                "windows": {"type": "integer", "minimum": 1},
                "labels": {"type": "array", "items": {"type": "string"}},
                "explanation": {"type": "object"},
            },
        }
        return request, one_or_many(one)


def _pieces(text: Text, first: int, stop: int) -> Iterable[tuple[int, int, int]]:
    return (piece for word in range(first, stop) for piece in text.places[word])
