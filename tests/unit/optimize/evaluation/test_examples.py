"""Which samples are shown, and how small."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from optimize.evaluation import examples
from optimize.evaluation.examples import SIDE

HALF, LIKELY, SURE = 0.0, math.log(3), math.log(9)  # 50%, 75%, 90% of the first of two


def logits(*firsts: float) -> torch.Tensor:
    return torch.tensor([[first, 0.0] for first in firsts])


def test_the_right_labels_largest_changes_come_first() -> None:
    found = examples.classified(
        logits(HALF, SURE, LIKELY, HALF),
        logits(HALF, -SURE, HALF, LIKELY),
        torch.tensor([0, 0, 0, 1]),
        ["cat", "dog"],
        3,
    )
    assert [one.position for one in found] == [1, 2, 3]  # 80, 25 and 25 points; the first is as was
    assert (found[0].right, found[0].original, found[0].final) == ("cat", "cat 90%", "dog 90%")
    assert found[0].change == "probability of cat: 90.0% before, 10.0% after"
    assert found[2].right == "dog"
    assert found[2].change == "probability of dog: 50.0% before, 25.0% after"


def test_the_label_that_moved_most_is_shown_of_several() -> None:
    before, after = torch.tensor([[SURE, -SURE, 0.1]]), torch.tensor([[SURE, SURE, 0.1]])
    targets = torch.tensor([[1.0, 0.0, 0.0]])
    (one,) = examples.classified(before, after, targets, ["cat", "dog"], 8)
    assert (one.right, one.original, one.final) == ("cat", "cat, 2", "cat, dog, 2")
    assert one.change == "probability of dog: 10.0% before, 90.0% after"


def test_answers_that_are_the_same_are_no_example() -> None:
    same = logits(SURE, HALF)
    assert examples.classified(same, same.clone(), torch.tensor([0, 1]), [], 8) == []
    assert examples.largest(torch.tensor([0.2, 0.5, 0.5, 0.0]), 8) == [1, 2, 0]


@pytest.mark.parametrize(
    ("size", "order", "pixel"),
    [((300, 200), "RGB", (250, 10, 10)), ((300, 200), "BGR", (10, 10, 250)),
     ((28, 28), "RGB", (250, 10, 10))],
)  # fmt: skip
def test_a_thumbnail_is_small_and_of_the_same_colours(
    size: tuple[int, int], order: str, pixel: tuple[int, ...]
) -> None:
    pixels = torch.tensor([250, 10, 10], dtype=torch.uint8)[:, None, None].expand(3, *size)
    kind, _, written = examples.thumbnail(pixels, order).partition(";base64,")
    assert kind == ("data:image/png" if max(size) <= SIDE else "data:image/jpeg")
    content = base64.b64decode(written)
    picture = Image.open(io.BytesIO(content))
    assert max(picture.size) == min(SIDE, max(size)) and len(content) < 4000
    shown = picture.getpixel((5, 5))
    assert isinstance(shown, tuple)
    assert np.abs(np.subtract(shown, pixel)).max() < 6
    assert examples.thumbnail(pixels, order).endswith(written)  # the same bytes again


def test_grey_pictures_stay_grey() -> None:
    pixels = torch.full((1, 20, 30), 77, dtype=torch.uint8)
    content = base64.b64decode(examples.thumbnail(pixels, "grey").partition(";base64,")[2])
    picture = Image.open(io.BytesIO(content))
    assert picture.mode == "L" and picture.size == (30, 20) and picture.getpixel((3, 3)) == 77


def test_texts_are_cut_on_one_line() -> None:
    assert examples.short("one\n two") == "one two"
    assert examples.short("a" * 300) == "a" * 199 + "…"


def test_a_waveform_follows_the_loudness() -> None:
    samples = np.concatenate([np.zeros(480), np.full(480, -0.5), np.full(960, 0.25)])
    found = examples.peaks(samples.astype(np.float32))
    assert found == [0] * 24 + [100] * 24 + [50] * 48
    assert examples.peaks(np.zeros(10, dtype=np.float32)) == [0] * 10


def test_rows_are_said_in_words() -> None:
    assert examples.values(torch.tensor(0.123456)) == "0.1235"
    assert examples.values(torch.tensor([1, 2])) == "[1, 2]"
    assert examples.values(torch.zeros(3, 4)) == "[0, 0, 0, 0, …] of shape [3, 4]"


def test_distances_are_in_standard_deviations() -> None:
    before = torch.tensor([[0.0], [2.0]])  # one apart from their mean
    found = examples.distance([before], [torch.tensor([[0.5], [2.0]])])
    assert found.tolist() == pytest.approx([0.5, 0.0])
