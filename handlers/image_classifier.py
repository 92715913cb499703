"""Image classification: pictures in, the most probable labels out."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from handlers.base import BaseHandler
from handlers.errors import ModelError, RequestError
from handlers.images import ImageSpec, image_cost, load_image
from handlers.payload import Input, Request, decode_base64, refuse_url
from handlers.pictures import Picture, transparent
from handlers.pixels import load_pixels
from handlers.predictions import DRAFT, one_or_many, prediction

DEFAULT_TOP_K = 5
# Types that clients declare without knowing what they send.
VAGUE_TYPES = frozenset({"", "application/octet-stream", "binary/octet-stream", "image/*"})


# Sides of the pictures that are timed while a worker starts.
_TRIAL_SIDES = 64, 768
# Pictures of the largest size that one request may hold.
_LARGEST_PICTURES = 4


class ImageClassifier(BaseHandler):
    """uint8 [N, C, H, W] to logits [N, classes], answered as the top_k labels."""

    task = "image_classification"
    parameters = ("top_k",)
    unit = "pixels"
    limits = ("max_pixels", "max_decoded_pixels")

    def setup(self) -> None:
        self.spec = ImageSpec.from_card(self.card.input)
        if not self.card.labels:
            raise ModelError("the model card has no labels: an image classifier needs them")

    def preprocess(self, request: Request) -> list[Picture]:
        self._top_k(request)
        return request.load_inputs(self._read)

    def cost(self, value: Picture) -> float:
        return value.cost

    def decode(self, value: Picture) -> torch.Tensor:
        if isinstance(value.content, torch.Tensor):
            return value.content
        with _declared(value.content_type):
            return load_image(value.content, self.spec)

    def inference(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        logits = self.predict(torch.stack(inputs))
        if logits.ndim != 2 or logits.shape[1] != len(self.card.labels):
            shape = list(logits.shape)
            raise ModelError(
                f"the model returns {shape}, the card has {len(self.card.labels)} labels"
            )
        return list(torch.softmax(logits.float(), dim=1))

    def postprocess(self, request: Request, results: list[torch.Tensor]) -> Any:
        top_k = self._top_k(request)
        answers = [{"predictions": self._predictions(row, top_k)} for row in results]
        return answers if request.many else answers[0]

    def example(self) -> torch.Tensor:
        """A ramp from black to white: of one grey, runtimes that differ could still agree."""
        ramp = torch.linspace(0, 255, self.spec.width).to(torch.uint8)
        return ramp.expand(self.spec.channels, self.spec.height, -1).contiguous()

    def request_limit(self) -> float:
        return _LARGEST_PICTURES * self.spec.max_decoded_pixels

    def trials(self) -> tuple[Picture, Picture]:
        small, large = (transparent(side) for side in _TRIAL_SIDES)
        return small, large

    def schemas(self) -> tuple[Any, Any]:
        labels = len(self.card.labels)
        image = {
            "description": "JPEG, PNG, WebP or GIF (first frame) as the raw body, as a multipart "
            "part or in base64; or nested lists of pixels 0..255, [H][W], [H][W][C] or [C][H][W]",
            "type": ["string", "array"],
        }
        request = {
            "$schema": DRAFT,
            "type": "object",
            "properties": {
                "data": image,
                "b64": {"type": "string", "contentEncoding": "base64"},
                "instances": {"type": "array", "minItems": 1},
                "top_k": {"type": "integer", "minimum": 1, "maximum": labels},
            },
            "x-image": {
                "height": self.spec.height,
                "width": self.spec.width,
                "channels": self.spec.channels,
                "max_pixels": self.spec.max_pixels,
                "max_decoded_pixels": self.spec.max_decoded_pixels,
                "max_request_pixels": self.budget.request,
                "max_bytes": self.spec.max_bytes,
            },
        }
        one = {
            "type": "object",
            "required": ["predictions"],
            "properties": {"predictions": {"type": "array", "items": prediction(labels)}},
        }
        return request, one_or_many(one)

    def _top_k(self, request: Request) -> int:
        classes = len(self.card.labels)
        return request.integer("top_k", min(DEFAULT_TOP_K, classes), 1, classes)

    def _read(self, entry: Input) -> Picture:
        """Check the header of a file; pixels in JSON were charged as JSON."""
        value = entry.value
        if isinstance(value, list):
            pixels = load_pixels(value, self.spec)
            return Picture(pixels, self.spec.height * self.spec.width)
        if isinstance(value, str | bytes):
            refuse_url(value, entry.where)
        if isinstance(value, str):
            if entry.content_type.startswith("text/") and entry.where == "body":
                raise _unsupported(entry.content_type)
            value = decode_base64(value, self.spec.max_bytes, entry.where)
        if not isinstance(value, bytes):
            raise RequestError(
                400, "wrong_type", f"{entry.where} is neither a picture, base64 nor nested lists"
            )
        with _declared(entry.content_type):
            return Picture(value, image_cost(value, self.spec), entry.content_type)

    def _predictions(self, probabilities: torch.Tensor, top_k: int) -> list[dict[str, Any]]:
        values, indices = probabilities.topk(top_k)
        return [
            {"label": self.card.labels[index], "index": index, "probability": value}
            for value, index in zip(values.tolist(), indices.tolist(), strict=True)
        ]


@contextlib.contextmanager
def _declared(content_type: str) -> Iterator[None]:
    """What is no picture and was not sent as one gets 415."""
    try:
        yield
    except RequestError as error:
        if error.type == "undecodable_image" and not _may_hold_image(content_type):
            raise _unsupported(content_type) from error
        raise


def _may_hold_image(content_type: str) -> bool:
    return content_type in VAGUE_TYPES or content_type.startswith(("image/", "text/"))


def _unsupported(content_type: str) -> RequestError:
    return RequestError(
        415,
        "unsupported_type",
        f"{content_type} is not accepted: send image/jpeg, image/png, image/webp or image/gif, "
        "or base64 or pixels as application/json",
    )
