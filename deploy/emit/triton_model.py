"""Triton's Python backend: the archive's handler answers what Triton batched.

It lies as model.py in the model's version folder, beside the archive and this program's packages.
A request's BODY is what TorchServe would get as its body, CONTENT_TYPE and HEADERS (a JSON object)
say the rest; the answer's BODY, STATUS and CONTENT_TYPE are what the handler gave.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class TritonPythonModel:
    """One instance: a handler with its model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the archive that config.pbtxt names."""
        sys.path.insert(0, str(HERE))
        from deploy.service.bundle import unpack
        from deploy.service.worker import Records, Worker

        given = json.loads(args["model_config"]).get("parameters", {})
        archive = HERE / given["archive"]["string_value"]
        allowed = given.get("allow_ops", {}).get("string_value", "")
        self._bundle = unpack(archive, allow_ops=[name for name in allowed.split(",") if name])
        self._worker = Worker(self._bundle, Records())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests' rows as one batch."""
        import triton_python_backend_utils as triton

        rows, headers, counts = [], [], []
        for request in requests:
            bodies = _column(triton, request, "BODY")
            kinds = _column(triton, request, "CONTENT_TYPE") or [b""] * len(bodies)
            others = _column(triton, request, "HEADERS") or [b"{}"] * len(bodies)
            for body, kind, other in zip(bodies, kinds, others, strict=True):
                rows.append({"body": body})
                declared = kind.decode()
                sent = {name.lower(): value for name, value in json.loads(other).items()}
                described = {"content-type": declared} if declared else {}
                headers.append({"body": {"content-type": declared}, **described, **sent})
            counts.append(len(bodies))
        answers = self._worker.answer(rows, headers, [None] * len(rows))
        responses, at = [], 0
        for count in counts:
            responses.append(_response(triton, answers[at : at + count]))
            at += count
        return responses

    def finalize(self) -> None:
        """Let the model go."""
        self._worker.close()
        self._bundle.remove()


def _column(triton: Any, request: Any, name: str) -> list[bytes]:
    """The rows of an input; none if the request leaves it out."""
    tensor = triton.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    values = tensor.as_numpy().reshape(-1)
    return [value if isinstance(value, bytes) else str(value).encode() for value in values]


def _response(triton: Any, answers: list[Any]) -> Any:
    columns = {
        "BODY": np.array([[answer.body] for answer in answers], dtype=object),
        "STATUS": np.array([[answer.status] for answer in answers], dtype=np.int32),
        "CONTENT_TYPE": np.array([[answer.content_type.encode()] for answer in answers], object),
    }
    tensors = [triton.Tensor(name, values) for name, values in columns.items()]
    return triton.InferenceResponse(output_tensors=tensors)
