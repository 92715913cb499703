import io
import random
import struct
import zlib

import pytest
import torch
from PIL import Image

from handlers.errors import RequestError
from handlers.images import ImageSpec, load_image
from tests.unit import corpus
from tests.unit.corpus import png_chunk

SPEC = ImageSpec(48, 64)
CONTROL = struct.pack(">IIIIIHHBB", 0, 64, 48, 0, 0, 1, 10, 0, 0)
STILL = corpus.picture("PNG")


def with_chunks(*chunks: bytes, at: int = 33) -> bytes:
    return STILL[:at] + b"".join(chunks) + STILL[at:]


@pytest.mark.parametrize(
    "data",
    [
        with_chunks(png_chunk(b"acTL", b"\0\0")),
        with_chunks(png_chunk(b"acTL", struct.pack(">II", 0, 0))),
        with_chunks(png_chunk(b"acTL", struct.pack(">II", 2**31, 0)), png_chunk(b"fcTL", b"")),
        with_chunks(png_chunk(b"acTL", struct.pack(">II", 3, 0)), png_chunk(b"fcTL", CONTROL[:9])),
        with_chunks(png_chunk(b"acTL", struct.pack(">II", 3, 0))[:-4] + b"\0\0\0\0"),
        with_chunks(png_chunk(b"fdAT", b"\0"), at=len(STILL) - 12),
        with_chunks(png_chunk(b"acTL", struct.pack(">II", 3, 0)), png_chunk(b"fcTL", CONTROL) * 2),
        with_chunks(png_chunk(b"iCCP", b"broken"), png_chunk(b"zTXt", b"")),
        with_chunks(png_chunk(b"tIME", b"\xff" * 3)[:-4] + b"\0\0\0\0"),
        STILL + b"anything after the end",
    ],
)
def test_what_is_broken_beside_a_whole_png_does_not_matter(data):
    assert torch.equal(load_image(data, SPEC), load_image(STILL, SPEC))


def test_a_whole_animation_is_answered_by_its_first_picture():
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "lime", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "PNG", save_all=True, append_images=frames[1:], duration=50)
    assert load_image(stream.getvalue(), SPEC)[:, 20, 20].tolist() == [255, 0, 0]


def test_a_png_keeps_its_transparency_palette_and_orientation():
    picture = Image.new("P", (64, 48), 0)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.paste(1, (0, 0, 64, 24))
    exif = Image.Exif()
    exif[0x0112] = 3
    stream = io.BytesIO()
    picture.save(stream, "PNG", transparency=0, exif=exif)
    pixels = load_image(stream.getvalue(), SPEC)
    assert pixels[:, 10, 30].tolist() == [255, 255, 255]
    assert pixels[:, 40, 30].tolist() == [255, 0, 0]


def test_texts_that_unfold_to_megabytes_are_left_out(monkeypatch):
    monkeypatch.setattr("PIL.PngImagePlugin.PngStream.chunk_zTXt", None)
    text = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))
    assert torch.equal(load_image(with_chunks(text * 70), SPEC), load_image(STILL, SPEC))


def test_a_damaged_png_is_still_refused():
    for data in (STILL[:-200], STILL[:60] + b"\0\0" + STILL[62:], with_chunks(b"\0\0\xff\xfftEXt")):
        with pytest.raises(RequestError) as caught:
            load_image(data, SPEC)
        assert caught.value.status == 400


GIF = corpus.picture("GIF")
FRAME = GIF.index(b",", 13 + 3 * 256)


@pytest.mark.parametrize("extension", [b"\x21\xfe" + b"\x01a" * 50_000 + b"\x00", b"\x21\xff\x00"])
def test_a_gifs_extensions_are_left_out(extension):
    data = GIF[:FRAME] + extension + GIF[FRAME:]
    assert torch.equal(load_image(data, SPEC), load_image(GIF, SPEC))


def test_files_in_very_many_pieces_are_refused():
    comment = b"\x21\xfe" + b"\x01a" * 70_000 + b"\x00"
    for data in (
        GIF[:FRAME] + comment + GIF[FRAME:],
        with_chunks(png_chunk(b"tEXt", b"") * 66_000),
    ):
        with pytest.raises(RequestError) as caught:
            load_image(data, SPEC)
        assert caught.value.status == 413


def progressive(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", progressive=True, quality=90)
    return stream.getvalue()


JPEG = progressive(Image.open(io.BytesIO(STILL)).convert("RGB"))


@pytest.mark.parametrize(
    "trailer",
    [
        b"\x00\x00\x00\x18ftypmp42" + random.Random(0).randbytes(1 << 18) + b"\xff\xda" * 100,
        JPEG * 20,
        b"\xff\xd8" + b"\xff\xda\x00\x02" * 1000,
    ],
    ids=["video", "more pictures", "scans"],
)
def test_what_follows_a_jpeg_does_not_count(trailer):
    assert torch.equal(load_image(JPEG + trailer, SPEC), load_image(JPEG, SPEC))


def test_a_marker_inside_a_segment_is_no_marker():
    comment = b"\xff\xfe" + struct.pack(">H", 402) + b"\xff\xd9\xff\xda" * 100
    scan = JPEG.index(b"\xff\xda")
    data = JPEG[:scan] + comment + JPEG[scan:]
    assert torch.equal(load_image(data, SPEC), load_image(JPEG, SPEC))


@pytest.mark.parametrize("progressive_", [True, False])
def test_many_scans_are_refused_wherever_they_hide(progressive_):
    stream = io.BytesIO()
    Image.new("RGB", (64, 48)).save(stream, "JPEG", progressive=progressive_)
    data = stream.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    for between in (b"", b"\xff\xd8", b"\xff\x02\xff\xff", b"\xff\xff", b"\xff\xd0"):
        with pytest.raises(RequestError) as caught:
            load_image(data[:-2] + (between + scan) * 65 + b"\xff\xd9", SPEC)
        assert caught.value.type == "too_many_scans"
