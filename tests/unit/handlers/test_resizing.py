"""Pictures brought to the model's size, against what Pillow makes of them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from handlers.errors import ModelError
from handlers.images import ImageSpec, fit_pixels, load_image
from handlers.pixels import load_pixels
from tests.unit import corpus


def picture(size):
    """An RGB picture of smooth waves and some noise, as Pillow's (width, height)."""
    y, x = np.mgrid[: size[1], : size[0]]
    waves = [127 + 120 * np.sin(x / a + y / b) for a, b in ((5, 9), (17, 4), (8, 31))]
    return Image.fromarray(np.stack(waves, -1).astype(np.uint8))


def saved(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def gap(ours, theirs):
    assert ours.shape == theirs.shape
    return int((ours.int() - theirs.int()).abs().max())


@pytest.mark.parametrize(
    ("interpolation", "limit"),
    [("bilinear", 1), ("bicubic", 1), ("nearest", 0), ("lanczos", 0), ("box", 0), ("hamming", 0)],
)
@pytest.mark.parametrize("size", [(96, 64), (31, 90), (20, 17)])
def test_squash_is_pillows_resize(interpolation, limit, size):
    image = picture(size)
    spec = ImageSpec(40, 48, resize="squash", interpolation=interpolation)
    method = Image.Resampling[interpolation.upper()]
    assert gap(load_image(saved(image), spec), pixels(image.resize((48, 40), method))) <= limit


@pytest.mark.parametrize("size", [(96, 64), (31, 90), (20, 17)])
def test_letterbox_is_pillows_pad(size):
    image = picture(size)
    spec = ImageSpec(40, 48, resize="letterbox", fill=114)
    wanted = ImageOps.pad(image, (48, 40), Image.Resampling.BILINEAR, color=(114, 114, 114))
    ours = load_image(saved(image), spec)
    assert gap(ours, pixels(wanted)) <= 1
    assert (ours == 114).all(0).any() == (pixels(wanted) == 114).all(0).any()


def test_a_strip_keeps_a_line_in_a_letterbox():
    ours = load_image(saved(picture((500, 3))), ImageSpec(40, 48, resize="letterbox", fill=114))
    assert (ours != 114).any(2).any(0).sum() == 1


def test_squash_and_letterbox_take_the_centre_of_a_larger_size():
    image = picture((90, 70))
    spec = ImageSpec(32, 32, resize="squash", resize_size=(40, 36))
    wanted = image.resize((36, 40), Image.Resampling.BILINEAR).crop((2, 4, 34, 36))
    assert gap(load_image(saved(image), spec), pixels(wanted)) <= 1
    boxed = ImageSpec(32, 32, resize="letterbox", resize_size=(40, 40), fill=9)
    ours = load_image(saved(image), boxed)  # 40x31: cut at the sides, a line filled
    assert ours.shape == (3, 32, 32) and (ours == 9).all(2).all(0).sum() == 1


def test_crop_covers_a_size_of_two_sides():
    image = picture((120, 80))
    spec = ImageSpec(24, 60, resize_size=(30, 66))
    scaled = image.resize((66, 44), Image.Resampling.BILINEAR)
    assert gap(load_image(saved(image), spec), pixels(scaled.crop((3, 10, 63, 34)))) <= 1


def test_a_large_jpeg_is_squashed_as_pillow_does():
    data = corpus.picture("JPEG", (900, 400))
    spec = ImageSpec(32, 32, resize="squash", interpolation="bicubic")
    wanted = Image.open(io.BytesIO(data)).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    ours = load_image(data, spec).float()
    assert (ours - pixels(wanted).float()).abs().mean() < 2  # the decoder halves it first


def test_channels_in_the_models_order():
    red = Image.new("RGB", (8, 8), (250, 20, 5))
    spec = ImageSpec(8, 8, color_order="BGR")
    for ours in (
        load_image(saved(red), spec),
        load_pixels(np.array(red).tolist(), spec),
        load_pixels(np.array(red).transpose(2, 0, 1).tolist(), spec),
        fit_pixels(np.array(red.resize((20, 30))), spec),
    ):
        assert ours[:, 4, 4].tolist() == [5, 20, 250]


def test_a_card_says_how():
    entry = {"size": [8, 12], "channels": 3, "resize": "letterbox", "resize_size": [9, 13]}
    spec = ImageSpec.from_card({**entry, "interpolation": "bicubic", "fill": 7})
    assert (spec.resize, spec.resize_size, spec.fill) == ("letterbox", (9, 13), 7)
    assert spec.interpolation == "bicubic" and spec.color_order == "RGB"
    squashed = ImageSpec.from_card({"size": [8, 12], "resize": "squash"})
    assert squashed.resize_size == (8, 12)
    earlier = ImageSpec.from_card({"size": [8, 8], "resize": 10})
    assert earlier == ImageSpec(8, 8, 3, 10) and earlier.resize == "crop"


@pytest.mark.parametrize(
    "entry", [{"resize": "stretch"}, {"interpolation": "cubic"}, {"color_order": "RBG"}]
)
def test_a_card_that_says_what_there_is_not_is_refused(entry):
    with pytest.raises(ModelError, match="says"):
        ImageSpec.from_card({"size": [8, 8], **entry})
