import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from handlers.errors import ModelError, RequestError
from handlers.images import ImageSpec, decode_image, fit_pixels, load_image
from tests.unit import corpus

SPEC = ImageSpec(32, 32, 3, 36)
GREY = ImageSpec(28, 28, 1, 28)


def plain(image, spec=SPEC):
    """What Pillow alone makes of a picture: resize, centre crop, [C, H, W]."""
    image = image.convert("RGB" if spec.channels == 3 else "L")
    width, height = image.size
    shorter = min(width, height)
    size = (spec.resize_size * width // shorter, spec.resize_size * height // shorter)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left = round((size[0] - spec.width) / 2)
    top = round((size[1] - spec.height) / 2)
    image = image.crop((left, top, left + spec.width, top + spec.height))
    pixels = torch.from_numpy(np.array(image).reshape(spec.height, spec.width, spec.channels))
    return pixels.permute(2, 0, 1)


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def difference(ours, theirs):
    return (ours.int() - theirs.int()).abs()


def opened(data):
    return Image.open(io.BytesIO(data))


@pytest.mark.parametrize("spec", [SPEC, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("format", corpus.FORMATS)
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (100, 33), (20, 31), (1, 1)])
def test_agrees_with_pillow_to_one_grey_level(format, size, spec):
    data = corpus.picture(format, size)
    ours = load_image(data, spec)
    assert ours.shape == (spec.channels, spec.height, spec.width)
    assert ours.dtype == torch.uint8
    assert ours.is_contiguous()
    # libjpeg's own luma differs from RGB turned grey by one level more.
    limit = 2 if format == "JPEG" and spec is GREY else 1
    assert difference(ours, plain(opened(data), spec)).max() <= limit


def test_scaled_decoding_stays_close():
    photo = Image.fromarray(
        np.asarray(Image.effect_noise((48, 36), 90).resize((1600, 1200), Image.Resampling.BICUBIC))
    )
    data = saved(photo.convert("RGB"), "JPEG", quality=92)
    gap = difference(load_image(data, SPEC), plain(opened(data))).float()
    assert gap.mean() < 1
    assert gap.max() <= 6


def test_a_picture_of_the_models_size_is_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert load_image(saved(Image.fromarray(pixels), "PNG"), GREY).tolist() == [pixels.tolist()]


def test_the_result_is_a_copy():
    pixels = np.zeros((28, 28, 1), dtype=np.uint8)
    fitted = fit_pixels(pixels, GREY)
    pixels[:] = 9
    assert fitted.max() == 0


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = opened(corpus.picture("PNG", (52, 40))).convert("RGB")
    data = saved(upright, format, exif=exif)
    wanted = ImageOps.exif_transpose(opened(data).convert("RGB"))
    assert difference(load_image(data, SPEC), plain(wanted)).max() <= 1
    whole = decode_image(data, SPEC)
    assert (whole.shape[2], whole.shape[1]) == wanted.size


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize(
    "block", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_broken_exif_is_ignored(block):
    data = saved(Image.new("RGB", (40, 40), "red"), "JPEG", exif=block)
    assert load_image(data, SPEC)[0].min() > 250


def test_transparency_is_composited_on_white():
    half = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert load_image(saved(half, "PNG"), SPEC).min() == 255
    half = Image.new("RGBA", (40, 40), (255, 0, 0, 128))
    red, green, _ = load_image(saved(half, "PNG"), SPEC)[:, 5, 5].tolist()
    assert (red, green) == (255, 127)
    grey = Image.new("LA", (40, 40), (0, 0))
    assert load_image(saved(grey, "PNG"), GREY).min() == 255
    lossless = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    assert load_image(saved(lossless, "WEBP", lossless=True), SPEC).min() == 255


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_palettes_and_their_transparent_entry(format):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 0, 0, 200])
    assert load_image(saved(image, format), SPEC)[:, 9, 9].tolist() == [0, 0, 200]
    assert load_image(saved(image, format, transparency=1), SPEC).min() == 255


def test_sixteen_bits():
    wide = np.array([[0, 128, 255 * 257, 1000], [65535, 32768, 257, 129]] * 2, dtype=np.uint16)
    data = saved(Image.fromarray(wide), "PNG")
    wanted = np.rint(wide / 257).astype(np.uint8)
    assert decode_image(data, GREY)[0].tolist() == wanted.tolist()
    assert decode_image(data, SPEC).tolist() == [wanted.tolist()] * 3


def test_sixteen_bits_with_a_transparent_grey():
    wide = np.full((4, 4), 1000, dtype=np.uint16)
    wide[0, 0] = 300
    data = saved(Image.fromarray(wide), "PNG", transparency=300)
    assert decode_image(data, GREY)[0, 0].tolist() == [255, 4, 4, 4]


def test_one_bit():
    assert load_image(saved(Image.new("1", (40, 40), 1), "PNG"), GREY).min() == 255


def test_cmyk():
    cyan = Image.new("CMYK", (40, 40), (255, 0, 0, 0))
    data = saved(cyan, "JPEG", quality=95)
    assert difference(load_image(data, SPEC), plain(opened(data))).max() <= 1
    red, green, blue = load_image(data, SPEC)[:, 9, 9].tolist()
    assert red < 10 < 245 < green
    assert blue > 245


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 2}, {"subsampling": 0}])
def test_kinds_of_jpeg(options):
    data = saved(opened(corpus.picture()).convert("RGB"), "JPEG", **options)
    assert difference(load_image(data, SPEC), plain(opened(data))).max() <= 1


def test_grey_jpeg_for_a_colour_model():
    data = saved(Image.new("L", (40, 40), 77), "JPEG", quality=95)
    assert difference(load_image(data, SPEC), torch.tensor(77)).max() <= 1


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "lime", "blue")]
    for format in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], format, save_all=True, append_images=frames[1:])
        red, green, blue = load_image(data, SPEC)[:, 9, 9].tolist()
        assert red > 240
        assert max(green, blue) < 15


def test_a_jpeg_with_trailing_rubbish_still_counts():
    data = corpus.picture("JPEG", (64, 48))
    assert torch.equal(load_image(data + b"\0" * 500, SPEC), load_image(data, SPEC))


@pytest.mark.parametrize("size", [(8000, 1), (1, 8000), (3000, 7)])
def test_strips_cost_no_more_than_squares(size, monkeypatch):
    seen = []
    real = torch.nn.functional.interpolate

    def watched(image, size, **options):
        seen.append(size[0] * size[1])
        return real(image, size, **options)

    monkeypatch.setattr("handlers.resizing.F.interpolate", watched)
    assert load_image(corpus.picture("PNG", size), SPEC).shape == (3, 32, 32)
    assert seen
    assert max(seen) <= 36 * 36 * 5


def test_the_far_ends_of_a_strip_do_not_matter():
    data = corpus.picture("PNG", (36 * 9, 36))
    assert difference(load_image(data, SPEC), plain(opened(data))).max() <= 1


def test_a_crop_that_does_not_fit_enlarges():
    wide = ImageSpec(10, 60, 3, 12)
    white = saved(Image.new("RGB", (40, 40), "white"), "PNG")
    assert load_image(white, wide).shape == (3, 10, 60)
    assert load_image(white, wide).min() == 255


@pytest.mark.parametrize(
    ("spec", "status", "type"),
    [
        (ImageSpec(32, 32, max_bytes=100), 413, "too_many_bytes"),
        (ImageSpec(32, 32, max_pixels=64 * 48 - 1), 413, "too_many_pixels"),
    ],
)
def test_limits_are_inclusive(spec, status, type):
    data = corpus.picture("JPEG", (64, 48))
    with pytest.raises(RequestError) as caught:
        load_image(data, spec)
    assert (caught.value.status, caught.value.type) == (status, type)
    exact = ImageSpec(32, 32, max_bytes=len(data), max_pixels=64 * 48)
    assert load_image(data, exact).shape == (3, 32, 32)


BOMBS = """
import resource, sys
from handlers.errors import RequestError
from handlers.images import ImageSpec, load_image
from tests.unit import corpus
spec = ImageSpec(224, 224)
bombs = [
    *(corpus.png_claiming(side, side) for side in (9000, 60000, 2**31 - 1)),
    *(corpus.jpeg_claiming(side, side) for side in (9000, 65535)),
    *(corpus.gif_claiming(side, side) for side in (9000, 65535)),
    *(corpus.webp_claiming(16383, 16383, kind) for kind in (b"VP8X", b"VP8L", b"VP8 ")),
    corpus.gif_claiming(1, 1, (65535, 65535)),
]
load_image(corpus.picture("WEBP"), spec)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        load_image(bomb, spec)
    except RequestError as error:
        assert error.status == 413, error.message
    else:
        raise AssertionError("a bomb was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_allocate_nothing(root: Path):
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2048, "KiB of memory touched"


def test_specs_from_cards():
    spec = ImageSpec.from_card({"size": [28, 30], "channels": 1})
    assert (spec.height, spec.width, spec.channels, spec.resize_size) == (28, 30, 1, 28)
    for wrong in ({}, {"size": [28]}, {"size": "28"}, {"size": [28, 28], "channels": 4}):
        with pytest.raises(ModelError, match="model card"):
            ImageSpec.from_card(wrong)
    with pytest.raises(ModelError, match="0x28x3"):
        ImageSpec.from_card({"size": [0, 28]})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(corpus.FORMATS), st.integers(0, 5), st.data())
def test_damaged_pictures_are_loaded_or_refused(format, seed, data):
    whole = bytearray(corpus.picture(format, (48, 36), seed))
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    start = data.draw(st.integers(0, len(whole)))
    del whole[start : start + data.draw(st.integers(0, 50))]
    try:
        image = load_image(bytes(whole), SPEC)
    except RequestError as error:
        assert error.status in (400, 413, 415, 422)
        assert error.body().isascii()
    else:
        assert image.shape == (3, 32, 32)
        assert image.dtype == torch.uint8
