import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers.errors import RequestError
from handlers.image_header import read_header
from tests.unit import corpus


@pytest.mark.parametrize("format", corpus.FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (301, 8)])
def test_reads_what_pillow_writes(format, size):
    header = read_header(corpus.picture(format, size))
    assert (header.format, header.width, header.height) == (format, *size)


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}])
def test_reads_every_kind_of_webp(options):
    stream = io.BytesIO()
    Image.new("RGBA", (300, 17), (1, 2, 3, 4)).save(stream, "WEBP", **options)
    header = read_header(stream.getvalue())
    assert (header.width, header.height) == (300, 17)


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (corpus.jpeg_claiming(65535, 40000), "JPEG"),
        (corpus.png_claiming(65535, 40000), "PNG"),
        (corpus.gif_claiming(65535, 40000), "GIF"),
        (corpus.gif_claiming(1, 1, (65535, 40000)), "GIF"),
        (corpus.webp_claiming(65535, 40000), "WEBP"),
    ],
)
def test_reads_claims_without_believing_them(data, format):
    header = read_header(data)
    assert (header.format, header.width, header.height) == (format, 65535, 40000)


@pytest.mark.parametrize("magic", [b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"])
def test_every_kind_of_tiff_is_named(magic):
    with pytest.raises(RequestError, match="TIFF is not accepted") as caught:
        read_header(magic + bytes(100))
    assert caught.value.status == 415


def test_jpeg_extras():
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("L", (20, 10)).save(stream, "JPEG", exif=exif)
    header = read_header(stream.getvalue())
    assert header.components == 1
    assert header.exif.startswith(b"Exif\0\0")


def test_stray_bytes_between_jpeg_markers_are_skipped_as_decoders_do():
    whole = corpus.picture("JPEG", (33, 44))
    stuffed = whole[:2] + b"\xff\xff" + whole[2:20] + whole[20:]
    header = read_header(stuffed)
    assert (header.width, header.height) == (33, 44)


def test_a_gif_with_extensions_and_a_palette():
    frames = [Image.new("P", (30, 20), index) for index in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:], comment=b"c" * 600)
    header = read_header(stream.getvalue())
    assert (header.width, header.height) == (30, 20)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(corpus.FORMATS), st.data())
def test_damaged_headers_are_read_or_refused(format, data):
    whole = bytearray(corpus.picture(format, (40, 30)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(whole), 64) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        header = read_header(cut)
    except RequestError as error:
        assert error.status in (400, 413, 415, 422)
    else:
        assert header.width > 0
        assert header.height > 0
