"""What a handler returns for a request, as the bytes that TorchServe sends for it."""

import io
import json
from typing import Any

import torch


class Unserializable(TypeError):
    """The value is neither bytes, a string, a tensor nor JSON."""


def encoded(value: Any) -> bytes:
    """Bytes as they are, a string as UTF-8, a tensor as `torch.save` writes it, else JSON.

    The JSON is indented by two, as TorchServe's is. Raises Unserializable.
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, torch.Tensor):
        buffer = io.BytesIO()
        torch.save(value, buffer)
        return buffer.getvalue()
    try:
        return json.dumps(value, indent=2).encode()
    except (TypeError, ValueError) as error:
        raise Unserializable(str(error)) from error


def content_type(value: Any) -> str:
    """The type to send such a value with where the handler set none; TorchServe then sends none."""
    if isinstance(value, str):
        return "text/plain; charset=utf-8"
    if isinstance(value, bytes | bytearray | torch.Tensor):
        return "application/octet-stream"
    return "application/json"
