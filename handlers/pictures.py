"""A picture on its way to a model: checked and charged by its header, decoded later."""

import io
from dataclasses import dataclass

import torch
from PIL import Image


@dataclass(frozen=True)
class Picture:
    """A file whose header was checked, or pixels as the model takes them, and the cost in pixels.

    `content_type` is the type that the file came under.
    """

    content: bytes | torch.Tensor
    cost: float
    content_type: str = ""


def transparent(side: int) -> Picture:
    """A PNG with an alpha channel, which takes the longest of all files for its pixels."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGBA").save(stream, "PNG")
    return Picture(stream.getvalue(), side * side)
