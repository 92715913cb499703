"""Any model of tensors: named tensors in, named tensors out, in the format that they came in."""

import json
from collections.abc import Mapping
from typing import Any

import torch

from handlers import tensor_formats
from handlers.base import BaseHandler
from handlers.batch import Encoded
from handlers.errors import ModelError, RequestError
from handlers.payload import Request
from handlers.predictions import DRAFT
from handlers.request import Input
from handlers.streaming import Send
from handlers.tensor_formats import Asked, Call
from handlers.tensor_spec import NAMES, checked, inputs_of, outputs_of

# Values of a call of the model, and rows: more are computed one part after another.
_MOST_VALUES, _MOST_ROWS = 1 << 20, 1024
# Rows of the larger request that is timed while a worker starts.
_TRIAL_VALUES = 1 << 16


class Tensors(BaseHandler):
    """Tensors [N, ...] of the card's names, shapes and datatypes."""

    task = "tensors"
    unit = "values"

    def setup(self) -> None:
        self.specs = inputs_of(self.card)
        self.outputs = outputs_of(self.card)
        values = sum(spec.ramp(1).numel() for spec in self.specs)
        self.most_rows = max(1, min(_MOST_ROWS, _MOST_VALUES // values))

    def read(self, row: Any, headers: Mapping[str, Any], sender: Send | None) -> Request:
        asked = tensor_formats.read(row, headers, self.specs, self.max_bytes(), self.max_json)
        return Request([Input(asked)])

    def preprocess(self, request: Request) -> list[Call]:
        asked: Asked = request.inputs[0].value
        tensor_formats.check_outputs(asked, self.outputs)
        return [Call(tuple(checked(asked.tensors, self.specs).values()))]

    def cost(self, value: Call) -> float:
        return float(sum(tensor.numel() for tensor in value.tensors))

    def inference(self, inputs: list[Call]) -> list[dict[str, torch.Tensor]]:
        """Rows of equal shapes together, whichever request they came with."""
        alike: dict[tuple[torch.Size, ...], list[int]] = {}
        for position, call in enumerate(inputs):
            shapes = tuple(tensor.shape[1:] for tensor in call.tensors)
            alike.setdefault(shapes, []).append(position)
        results: list[dict[str, torch.Tensor]] = [{} for _ in inputs]
        for positions in alike.values():
            counts = [inputs[p].rows for p in positions]
            columns = zip(*(inputs[p].tensors for p in positions), strict=True)
            answers = self._answers([torch.cat(parts) for parts in columns], len(positions))
            for name, output in zip(self.outputs, answers, strict=True):
                for position, part in zip(positions, output.split(counts), strict=True):
                    results[position][name] = part
        return results

    def _answers(self, tensors: list[torch.Tensor], requests: int) -> list[torch.Tensor]:
        """The outputs for all rows, `most_rows` at a time."""
        parts = []
        for start in range(0, len(tensors[0]), self.most_rows):
            rows = [tensor[start : start + self.most_rows] for tensor in tensors]
            try:
                answer = self.predict(*rows)
            except (RuntimeError, IndexError) as error:
                if requests == 1 and "out of range" in str(error):
                    raise _beyond(error) from error
                raise
            outputs = (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)
            if [len(output) for output in outputs] != [len(rows[0])] * len(self.outputs):
                shapes = [list(output.shape) for output in outputs]
                raise ModelError(f"the model returns {shapes}, the card names {self.outputs}")
            parts.append([output.clone() for output in outputs])
        return [torch.cat(output) for output in zip(*parts, strict=True)]

    def postprocess(self, request: Request, results: list[dict[str, torch.Tensor]]) -> Encoded:
        return tensor_formats.answer(request.inputs[0].value, results[0], self.card.name)

    def example(self) -> Call:
        return self._made_up(1)

    def request_limit(self) -> float:
        return float(self.max_bytes())  # a value is a byte at least

    def trials(self) -> tuple[Call, Call]:
        light = self._made_up(1)
        rows = max(2, int(_TRIAL_VALUES // self.cost(light)))
        return light, self._made_up(min(rows, self.most_rows))

    def _made_up(self, rows: int) -> Call:
        return Call(tuple(spec.ramp(rows) for spec in self.specs))

    def schemas(self) -> tuple[Any, Any]:
        declared = [
            {"name": spec.name, "datatype": NAMES[spec.dtype], "shape": list(spec.shape)}
            for spec in self.specs
        ]
        outputs = list(self.card.model["outputs"])
        request = {
            "$schema": DRAFT,
            "description": "nested lists by name, rows under instances, KServe v2 (also with "
            "binary data), or the bytes of an .npy, .npz or safetensors file",
            "type": "object",
            "properties": {spec.name: {"type": "array"} for spec in self.specs},
            "x-tensors": {
                "inputs": declared,
                "outputs": outputs,
                "max_bytes": self.max_bytes(),
                "max_request_values": self.budget.request if self.initialized else None,
            },
        }
        names = [str(entry["name"]) for entry in outputs]
        answer = {
            "type": "object",
            "required": names,
            "properties": {name: {"type": "array"} for name in names},
        }
        return json.loads(json.dumps(request)), answer


def _beyond(error: Exception) -> RequestError:
    reason = (str(error).strip().splitlines() or [""])[-1][:120]
    return RequestError(
        422, "bad_value", f"a whole number lies outside what the model takes ({reason})"
    )
