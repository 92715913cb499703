"""What small bodies cost: none makes more of the worker's memory than its bytes have paid for."""

import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers import memory
from handlers.image_classifier import ImageClassifier
from handlers.memory import MEGABYTE
from tests.unit import corpus
from tests.unit.expensive import expensive, lossless, saved
from tests.unit.handlers.archive import Worker, body

CLEAR = Path("/proc/self/clear_refs")
SIDES = st.integers(1, 70_000)
SMALL = st.integers(1, 1200)


def measurable() -> bool:
    """Whether this system tells the most memory that a process has had since it was asked to."""
    try:
        CLEAR.write_bytes(b"5")
    except OSError:
        return False
    return True


def peak(work) -> int:
    """Bytes by which the process grew at most during `work`."""
    CLEAR.write_bytes(b"5")
    before = memory.resident()
    work()
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) * 1024 - before


@pytest.fixture(scope="module")
def worker(colours: Path) -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TS_DECODE_INPUT_REQUEST", "false")  # as the handler sets it in a worker
        made = Worker(ImageClassifier(), colours)
        made.predict(*(body(corpus.picture(form, (600, 600))) for form in corpus.FORMATS))
        yield made


def unfolding(width: int, height: int, format: str) -> bytes:
    """A whole file of one colour, for as many pixels as fit into its kilobyte."""
    if format == "WEBP":
        return lossless(min(width, 16_383), min(height, 16_383))
    mode = {"PNG": "RGBA", "GIF": "L", "JPEG": "RGB"}[format]
    return saved(Image.new(mode, (width, height)), format)


BODIES = st.one_of(
    st.builds(unfolding, SMALL, SMALL, st.sampled_from(corpus.FORMATS)),
    st.builds(lossless, st.integers(1, 16_383), st.integers(1, 16_383)),
    st.builds(corpus.png_claiming, SIDES, SIDES),
    st.builds(corpus.jpeg_claiming, st.integers(1, 65_535), st.integers(1, 65_535)),
    st.builds(corpus.gif_claiming, st.integers(1, 65_535), st.integers(1, 65_535)),
    st.builds(
        lambda count, kind: (
            corpus.picture("PNG", (8, 8))[:33]
            + corpus.png_chunk(kind, b"a\0\0" + zlib.compress(bytes(count)))
        ),
        st.integers(0, 400_000),
        st.sampled_from([b"zTXt", b"iCCP", b"IDAT", b"fdAT"]),
    ),
    st.builds(
        lambda part, count: (part * count).encode(),
        st.sampled_from(["[", "[]", "[],", '{"data":', "[[1,2,3],", "1e308,", '"', "\\u0000"]),
        st.integers(1, 300),
    ),
    st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.floats() | st.integers() | st.text(max_size=9),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(st.sampled_from(["data", "b64", "instances", "top_k"]), inner)
            ),
            max_leaves=20,
        ),
    ),
    st.binary(max_size=999),
)


@pytest.mark.skipif(not measurable(), reason="needs /proc/self/clear_refs")
@settings(max_examples=150, deadline=None)
@given(BODIES, st.sampled_from(["", "application/json", "image/webp", "text/plain"]))
def test_a_body_of_a_kilobyte_costs_less_than_ten_megabytes(worker, data, kind):
    data = data[:1000]
    answers = []
    assert peak(lambda: answers.extend(worker.predict(body(data, kind)))) < 10 * MEGABYTE
    assert answers[0].status in (200, 400, 413, 415, 422)


def test_forty_bytes_are_a_whole_picture(worker):
    (answer,) = worker.predict(body(lossless(300, 200)))
    assert answer.status == 200
    image = Image.open(io.BytesIO(lossless(300, 200)))
    image.load()
    assert image.size == (300, 200)


def test_expensive_bodies_get_their_answers(worker):
    for case in expensive():
        (answer,) = worker.predict(body(case.body, case.content_type))
        assert answer.status == case.status, (case.name, answer.body)
