"""Accuracy of test pictures that go through the handler as files, beside that of the tensors."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from handlers.card import read_card
from handlers.errors import RequestError
from handlers.image_classifier import ImageClassifier
from handlers.images import ImageSpec, in_order
from handlers.payload import Input, Request
from handlers.resizing import RESIZES
from optimize.data.dataset import Dataset, Encoded
from optimize.evaluation import accuracy
from optimize.utils import torchscript

SAMPLES = 500


def measure(folder: Path, data: Dataset, answers: Tensor) -> dict[str, Any] | None:
    """What the saved model answers to files, and to the same samples' tensors.

    The files are the data's own if it has some; else the tensors are written as PNG, which shows
    that decoding, the order of channels and the card are right, and nothing of scaling.

    Args:
        folder: holds `model.pt` and `model.json`.
        data: at most `SAMPLES` of its test split are used.
        answers: logits `[N, classes]` of the test split's tensors.

    Returns:
        The report's `from_files` without its budget; None where the tensors cannot be written
        as pictures that the handler would leave as they are.
    """
    handler = ImageClassifier()
    handler.card = read_card(folder)
    handler.setup()
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    chosen = order[:SAMPLES].sort().values
    files: list[Encoded] = [data.files[i] for i in chosen.tolist()] if data.files else []
    tensors = data.test.inputs[chosen]
    if not files and _canvas(handler.spec) is None:
        return None
    contents = [_content(file) for file in files] or [png(t, handler.spec) for t in tensors]
    model = torchscript.load(folder / handler.card.model["file"])
    given, refusals = _answers(model, handler, contents)
    names = [file.name for file in files] or [f"test image {i}" for i in chosen.tolist()]
    targets, wanted = data.test.targets[chosen], answers[chosen].argmax(1)

    def accuracy_of(labels: Tensor) -> float:
        return (labels == targets).double().mean().item()

    found: dict[str, Any] = {
        "kind": "files" if files else "tensors written as PNG",
        "samples": len(chosen),
        "from_files": accuracy_of(given),
        "from_tensors": accuracy_of(wanted),
        "agreement": (given == wanted).double().mean().item(),
        "refused": len(refusals),
        "first_refused": [f"{names[i]}: {why}" for i, why in list(refusals.items())[:3]],
    }
    if files and found["from_files"] < found["from_tensors"]:
        found["with_resize"] = {}
        for resize in RESIZES:
            if resize != handler.spec.resize:
                spec = handler.spec
                handler.spec = dataclasses.replace(spec, resize=resize, resize_size=0)
                labels, _ = _answers(model, handler, contents)
                found["with_resize"][resize] = accuracy_of(labels)
                handler.spec = spec
    return found


def _answers(
    model: torch.nn.Module, handler: ImageClassifier, contents: list[bytes]
) -> tuple[Tensor, dict[int, str]]:
    """The class int64 `[N]` of each file, -1 where it is refused, and why, by position."""
    read: list[Tensor] = []
    accepted: list[int] = []
    refusals: dict[int, str] = {}
    for position, content in enumerate(contents):
        try:
            request = Request([Input(content, "application/octet-stream")])
            read += [handler.decode(picture) for picture in handler.preprocess(request)]
            accepted.append(position)
        except RequestError as error:
            refusals[position] = error.message
    given = torch.full((len(contents),), -1)  # no class: a refused file is no right answer
    if read:
        logits = accuracy.predict(model, torch.stack(read), title="from files")
        given[accepted] = logits.argmax(1)
    return given, refusals


def _content(file: Encoded) -> bytes:
    try:
        return file.read()
    except OSError:
        return b""  # refused as empty, by name


def png(image: Tensor, spec: ImageSpec) -> bytes:
    """A PNG that the handler turns into `image`, uint8 `[C, height, width]`: it lies in the
    middle of a picture of the size before the crop."""
    canvas = _canvas(spec)
    assert canvas is not None
    top, left = round((canvas[0] - spec.height) / 2), round((canvas[1] - spec.width) / 2)
    whole = torch.zeros((len(image), *canvas), dtype=torch.uint8)
    whole[:, top : top + spec.height, left : left + spec.width] = in_order(image, spec)
    pixels = whole.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(
        buffer, "PNG", compress_level=1
    )
    return buffer.getvalue()


def _canvas(spec: ImageSpec) -> tuple[int, int] | None:
    """(height, width) of a picture that is not scaled and holds the model's size."""
    to = spec.resize_size
    box = (to, to) if isinstance(to, int) else to
    if spec.resize == "crop":
        return max(spec.height, box[0]), max(spec.width, box[1])
    return box if box[0] >= spec.height and box[1] >= spec.width else None
