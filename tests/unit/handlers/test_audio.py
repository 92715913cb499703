"""Audio decoding: formats, rates, channels, limits, and every way to be damaged."""

import io
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.audio import SAMPLE_RATE, AudioSpec, Recording, decode
from handlers.errors import ModelError, RequestError

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", None),
]


def tone(seconds: float = 2.0, rate: int = SAMPLE_RATE, hertz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def encode(
    samples: np.ndarray, rate: int = SAMPLE_RATE, form: str = "WAV", subtype: str | None = None
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def refusal(data: bytes, spec: AudioSpec | None = None) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        decode(data, spec)
    return caught.value.status, caught.value.type


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_rate_and_channel_count(
    form: str, subtype: str | None, rate: int, channels: int
) -> None:
    samples = np.stack([tone(2.0, rate)] * channels, axis=1)
    found = decode(encode(samples, rate, form, subtype))
    assert found.dtype == np.float32
    assert abs(len(found) - 2 * SAMPLE_RATE) < SAMPLE_RATE * 0.15
    spectrum = np.abs(np.fft.rfft(found[8000:24_000]))
    assert spectrum.argmax() == 440  # one second: bins of 1 Hz
    assert np.abs(found[8000:24_000]).max() == pytest.approx(0.3, abs=0.05)


def test_sixteen_kilohertz_arrives_bit_for_bit() -> None:
    samples = tone()
    assert np.array_equal(decode(encode(samples, subtype="FLOAT")), samples)


def test_channels_are_averaged() -> None:
    stereo = np.stack([tone(), -tone()], axis=1)
    assert np.abs(decode(encode(stereo, subtype="FLOAT"))).max() < 1e-6


def test_headerless_samples() -> None:
    data = (tone() * 32_767).astype("<i2").tobytes()
    found = Recording(data, AudioSpec(), "pcm_s16le", 16_000).samples()
    assert np.abs(found - tone()).max() < 1e-4
    slow = Recording(data, AudioSpec(), "pcm_s16le", 8000)
    assert slow.seconds == 4.0 and len(slow.samples()) == 4 * SAMPLE_RATE
    floats = Recording(tone().tobytes(), AudioSpec(), "pcm_f32le", 16_000).samples()
    assert np.array_equal(floats, tone())


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_a_file_cut_short_is_refused(form: str, subtype: str | None) -> None:
    whole = encode(tone(), form=form, subtype=subtype)
    for share in (0.3, 0.7, 0.95):
        status, kind = refusal(whole[: int(len(whole) * share)])
        assert (status, kind) == (400, "truncated_audio"), share


def test_a_header_of_a_day_is_refused_before_decoding() -> None:
    wav = bytearray(encode(tone()))
    place = wav.find(b"data")
    struct.pack_into("<I", wav, place + 4, 2 * SAMPLE_RATE * 86_400)
    assert refusal(bytes(wav)) == (413, "too_long")
    flac = bytearray(encode(tone(), form="FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = struct.pack(">I", SAMPLE_RATE * 86_400)
    assert refusal(bytes(flac)) == (413, "too_long")


def test_a_wav_streamed_into_a_pipe_has_no_length_and_is_taken() -> None:
    wav = bytearray(encode(tone(), subtype="PCM_16"))
    struct.pack_into("<I", wav, wav.find(b"data") + 4, 0xFFFFFFFF)
    assert len(decode(bytes(wav))) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    samples = tone()
    samples[20_000] = value
    assert refusal(encode(samples, subtype="FLOAT")) == (400, "bad_samples")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_input"),
        (b"\x00" * 1000, "undecodable_audio"),
        (b"RIFF\x00\x00\x00\x00WAVE", "undecodable_audio"),
        (b"fLaC" + b"\xff" * 200, "undecodable_audio"),
        (b"OggS" + b"\x00" * 200, "undecodable_audio"),
        (b'{"audio": 1}', "undecodable_audio"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "undecodable_audio"),
        (encode(tone(0.0)), "empty_input"),
    ],
)
def test_what_is_no_audio_is_refused(data: bytes, kind: str) -> None:
    assert refusal(data) == (400, kind)


def test_limits() -> None:
    wav = encode(tone(2.0))
    assert refusal(wav, AudioSpec(max_seconds=1.9)) == (413, "too_long")
    assert refusal(wav, AudioSpec(max_bytes=len(wav) - 1)) == (413, "too_many_bytes")
    assert refusal(encode(tone(2.0), rate=1000)) == (400, "unsupported_audio")
    assert len(decode(wav, AudioSpec(2.0, len(wav)))) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("entry", [{"max_seconds": "soon"}, {"max_seconds": 0}, {"max_bytes": -1}])
def test_a_card_with_wrong_limits_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="max_seconds"):
        AudioSpec.from_card(entry)


def test_memory_does_not_grow_with_length() -> None:
    peaks = []
    for minutes in (1, 5):
        recording = Recording(encode(tone(60.0 * minutes, 8000), 8000), AudioSpec())
        tracemalloc.start()
        total = sum(len(block) for block in recording.blocks())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert total == 60 * minutes * SAMPLE_RATE
    assert peaks[1] < 1.5 * peaks[0]


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        assert np.isfinite(decode(data)).all()
    except RequestError as error:
        assert error.status in (400, 413)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_is_decoded_or_refused(data: st.DataObject) -> None:
    form, subtype = data.draw(st.sampled_from(FORMATS[:4]))
    whole = bytearray(encode(tone(0.2), form=form, subtype=subtype))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert np.isfinite(decode(bytes(whole))).all()
    except RequestError as error:
        assert error.status in (400, 413)
