import io
import tracemalloc

import pytest
from PIL import Image

from handlers.errors import RequestError
from handlers.image_cost import FREE_PIXELS, PIXELS_A_BYTE, check_claim, pixel_cost
from handlers.image_header import ImageHeader, read_header
from handlers.images import ImageSpec, check_image, image_cost, load_image
from tests.unit import corpus

SPEC = ImageSpec(64, 64)


def saved(size: tuple[int, int], format: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.new("RGBA" if format in ("PNG", "WEBP") else "RGB", size).save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", corpus.FORMATS)
def test_a_file_claims_what_its_bytes_have_paid_for(format):
    check_claim(ImageHeader(format, 512, 512), 40)
    most = FREE_PIXELS + 1000 * PIXELS_A_BYTE[format]
    check_claim(ImageHeader(format, most, 1), 1000)
    with pytest.raises(RequestError, match="in 1000 bytes") as caught:
        check_claim(ImageHeader(format, most + 1, 1), 1000)
    assert (caught.value.status, caught.value.type) == (413, "too_many_pixels")


def test_a_kilobyte_of_webp_is_not_made_into_a_gigabyte():
    data = saved((16383, 2048), "WEBP", lossless=True)
    assert len(data) < 2000
    with pytest.raises(RequestError) as caught:
        load_image(data, SPEC)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("format", "size", "options"),
    [
        ("JPEG", (4000, 3000), {}),
        ("JPEG", (4000, 3000), {"progressive": True}),
        ("PNG", (4000, 3000), {}),
        ("GIF", (1600, 1200), {}),
        ("WEBP", (512, 512), {"lossless": True}),
    ],
)
def test_even_a_flat_picture_of_a_usual_size_is_taken(format, size, options):
    assert load_image(saved(size, format, **options), SPEC).shape == (3, 64, 64)


def test_pictures_are_charged_for_what_is_decoded():
    whole = 1600 * 1200
    assert pixel_cost(ImageHeader("PNG", 1600, 1200), 1) == whole
    # A sixteenth of the pixels comes out of the decoder, a quarter of the work goes into it.
    assert image_cost(saved((1600, 1200), "JPEG"), SPEC) < 0.3 * whole
    scans = read_header(saved((1600, 1200), "JPEG", progressive=True)).scans
    assert scans > 4
    assert image_cost(saved((1600, 1200), "JPEG", progressive=True), SPEC) > whole


def test_the_limit_of_decoded_pixels_spares_jpegs():
    spec = ImageSpec(64, 64, max_decoded_pixels=100_000)
    check_image(saved((1600, 1200), "JPEG"), spec)
    with pytest.raises(RequestError, match="1920000 pixels to decode, the limit is 100000"):
        check_image(saved((1600, 1200), "PNG"), spec)


def test_decoding_holds_one_copy_of_a_picture():
    data = saved((2000, 2000), "PNG")
    tracemalloc.start()
    try:
        load_image(data, SPEC)
        # Python's and numpy's part of it, without Pillow's own 4 bytes a pixel.
        assert tracemalloc.get_traced_memory()[1] < 4 * 2000 * 2000
    finally:
        tracemalloc.stop()
