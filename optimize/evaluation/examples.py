"""Held-out samples on which a model and its original differ most, small enough for a page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optimize.evaluation.calibration import probabilities

TEXT = 200  # letters of a text that are kept
SIDE = 112  # pixels of a thumbnail's longer side
PEAKS = 96  # points of a waveform
_LEAST = 1e-4  # a smaller change is none


@dataclass(frozen=True)
class Example:
    """A sample with both models' answers, in words.

    Attributes:
        kind: what `content` is.
        content: a picture as a data URI, a text, the values of a row in words, or of a recording
            the loudest sample of each of `PEAKS` parts, in per cent of its loudest.
        right: the right answer; "" if it is not known.
        original, final: the models' answers.
        change: how they differ.
    """

    kind: Literal["picture", "text", "recording", "row"]
    content: str | list[int]
    right: str
    original: str
    final: str
    change: str


@dataclass(frozen=True)
class Answered:
    """The answers to the sample at `position`, in words: fields as of `Example`."""

    position: int
    right: str
    original: str
    final: str
    change: str

    def shown(self, kind: Any, content: str | list[int]) -> Example:
        """The example with the sample's content."""
        return Example(kind, content, self.right, self.original, self.final, self.change)


def largest(changes: Tensor, most: int) -> list[int]:
    """Positions of the `most` largest changes, float `[N]`, the first of equal ones first;
    none that is nothing."""
    order = changes.double().argsort(descending=True, stable=True)[:most].tolist()
    return [position for position in order if float(changes[position]) > _LEAST]


def classified(
    before: Tensor, after: Tensor, targets: Tensor, labels: Sequence[str], most: int
) -> list[Answered]:
    """The samples whose right label became more or less likely by most.

    Args:
        before, after: logits `[N, classes]` of the original and the final model.
        targets: int64 `[N]`; in multi-label data float `[N, classes]`, where the label is shown
            whose probability changed most.
        labels: names of the classes; a class without one is a number.
        most: how many.
    """

    def name(label: int) -> str:
        return labels[label] if label < len(labels) else str(label)

    multi_label = targets.is_floating_point()
    then, now = (
        side.double().sigmoid() if multi_label else probabilities(side) for side in (before, after)
    )
    shown = (now - then).abs().argmax(1) if multi_label else targets
    column = shown[:, None]
    changes = (now.gather(1, column) - then.gather(1, column))[:, 0]

    def answer(row: Tensor) -> str:
        if multi_label:
            return ", ".join(name(i) for i in (row > 0.5).nonzero()[:, 0].tolist()) or "no label"
        return f"{name(int(row.argmax()))} {float(row.max()):.0%}"

    found = []
    for at in largest(changes.abs(), most):
        label = int(shown[at])
        found.append(
            Answered(
                at,
                answer(targets[at]) if multi_label else name(label),
                answer(then[at]),
                answer(now[at]),
                f"probability of {name(label)}: {float(then[at, label]):.1%} before, "
                f"{float(now[at, label]):.1%} after",
            )
        )
    return found


def thumbnail(pixels: Tensor, color_order: str) -> str:
    """A picture as a data URI.

    Args:
        pixels: uint8 `[C, H, W]`.
        color_order: of the channels: RGB, BGR or grey.
    """
    if len(pixels) not in (1, 3):
        pixels = pixels[:1]  # of any other channels, the first
    elif color_order == "BGR":
        pixels = pixels.flip(0)
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    from PIL import Image  # comes with pictures' tasks alone

    picture = Image.fromarray(rows[:, :, 0] if rows.shape[2] == 1 else rows)
    small = max(picture.size) <= SIDE
    picture.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    picture.save(written, "PNG" if small else "JPEG", quality=82)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def short(text: str, letters: int = TEXT) -> str:
    """A text on one line, cut where it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= letters else f"{line[: letters - 1].rstrip()}…"


def peaks(samples: npt.NDArray[np.float32]) -> list[int]:
    """The loudest sample of each of `PEAKS` parts of a recording `[n]`, in per cent of the loudest
    of all."""
    parts = np.array_split(np.abs(samples), min(PEAKS, len(samples)))
    loudest = max((float(part.max()) for part in parts), default=0.0) or 1.0
    return [round(100 * float(part.max()) / loudest) for part in parts]


def values(tensor: Tensor) -> str:
    """A row's tensor in words: `0.25`, `[1, 2, 3]`, or the first values and the shape."""
    flat = [_number(value) for value in tensor.flatten()[:8].tolist()]
    if not tensor.dim():
        return flat[0]
    if tensor.numel() <= len(flat):
        return f"[{', '.join(flat)}]"
    return f"[{', '.join(flat[:4])}, …] of shape {list(tensor.shape)}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def distance(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """How far outputs `[N, ...]` went, float64 `[N]`: the mean over an output's values, in its
    standard deviations, and over outputs."""
    parts = []
    for old, new in zip(before, after, strict=True):
        a, b = (side.double().reshape(len(side), -1) for side in (old, new))
        spread = a.std(correction=0).clamp(min=1e-12)
        parts.append(((a - b).abs().mean(1) / spread).nan_to_num())
    return torch.stack(parts).mean(0)
