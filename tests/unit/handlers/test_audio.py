"""Audio decoding: formats, rates, channels, limits, and every way to be damaged."""

import io
import re
import resource
import struct
import sys
import tracemalloc

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import ffmpeg, ogg
from handlers.audio import SAMPLE_RATE, AudioSpec, Recording, decode, seconds
from handlers.audio_header import frame_bytes
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


COMPRESSED = {
    "adts": ("aac", 44_100, {}),
    "ipod": ("aac", 44_100, {}),
    "mp4": ("aac", 44_100, {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "webm": ("libopus", 48_000, {"live": "1"}),
}


def compressed(samples: np.ndarray, form: str) -> bytes:
    """What telephones (m4a) and browsers (fragmented mp4, live webm) record, and bare AAC."""
    codec, rate, options = COMPRESSED[form]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, "mono", rate, context.frame_size or 960)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
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


@pytest.mark.parametrize("form", COMPRESSED)
def test_what_browsers_and_telephones_send(form: str) -> None:
    found = decode(compressed(tone(), form))
    assert abs(len(found) - 2 * SAMPLE_RATE) < 0.1 * SAMPLE_RATE
    assert np.abs(np.fft.rfft(found[8000:24_000])).argmax() == 440


@pytest.mark.parametrize("form", COMPRESSED)
def test_a_compressed_file_cut_short_is_refused(form: str) -> None:
    whole = compressed(tone(), form)
    for share in (0.6, 0.9):
        assert refusal(whole[: int(len(whole) * share) | 1]) == (400, "truncated_audio"), share


@pytest.mark.parametrize(
    "size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 2_000_000_000, 0xFFFFFFFF - 36, 0xFFFFFFFF]
)
def test_a_wav_that_was_written_into_a_pipe_is_heard_to_its_end(size: int) -> None:
    wav = bytearray(encode(tone(), subtype="PCM_16"))
    struct.pack_into("<I", wav, wav.find(b"data") + 4, size)
    assert np.array_equal(decode(bytes(wav)), decode(encode(tone(), subtype="PCM_16")))


def test_a_length_that_the_limits_rule_out_is_a_placeholder_and_any_other_a_claim() -> None:
    wav = bytearray(encode(tone(), subtype="PCM_16"))
    struct.pack_into("<I", wav, wav.find(b"data") + 4, 2 * SAMPLE_RATE * 3601)
    assert len(decode(bytes(wav))) == 2 * SAMPLE_RATE
    struct.pack_into("<I", wav, wav.find(b"data") + 4, 2 * SAMPLE_RATE * 1800)
    assert refusal(bytes(wav)) == (400, "truncated_audio")


def test_a_wav_without_samples_is_empty_whatever_chunks_follow() -> None:
    empty = encode(tone(0.0), subtype="PCM_16")
    assert refusal(empty + b"LIST\x04\x00\x00\x00INFO") == (400, "empty_input")


def flac_of_length(samples: int) -> bytes:
    """Two seconds of FLAC whose header says `samples`."""
    flac = bytearray(encode(tone(), form="FLAC"))
    flac[21] = flac[21] & 0xF0 | samples >> 32
    flac[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(flac)


def test_a_flac_may_leave_its_length_open_but_not_claim_more_than_it_has() -> None:
    assert len(decode(flac_of_length(0))) == 2 * SAMPLE_RATE
    assert refusal(flac_of_length(SAMPLE_RATE * 86_400)) == (400, "truncated_audio")
    assert refusal(flac_of_length(0)[:-100]) == (400, "truncated_audio")


def mp3(mode: str = "CONSTANT", seconds: float = 2.0) -> tuple[bytes, bytes]:
    """An MP3 and its frames without the first one, which counts the others."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", SAMPLE_RATE, 1, format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(tone(seconds))
    whole = buffer.getvalue()
    return whole, whole[frame_bytes("mp3", whole) :]


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_without_a_count_is_heard_whole_with_or_without_tags(mode: str) -> None:
    whole, frames = mp3(mode)
    tag = b"ID3\x04\0\0\0\0\0\x23TSSE\0\0\0\x0f\0\0\x03Lavf62.12.102\0" + bytes(10)
    old_tag = b"TAG" + bytes(125)
    for data in (whole, frames, tag + frames, frames + old_tag, tag + whole + old_tag):
        assert abs(len(decode(data)) / SAMPLE_RATE - 2) < 0.15
        inside_a_frame = data.rfind(b"\xff\xf3", 0, len(data) * 6 // 10) + 20
        assert refusal(data[:inside_a_frame]) == (400, "truncated_audio")


def test_mp3_in_wav() -> None:
    frames = mp3()[1]
    layout = struct.pack("<HHIIHHHHIHHH", 0x55, 1, SAMPLE_RATE, 8000, 1, 0, 12, 1, 2, 288, 1, 1393)
    head = b"fmt " + struct.pack("<I", len(layout)) + layout + b"data"
    for size in (len(frames), 0xFFFFFFFF):
        chunks = b"WAVE" + head + struct.pack("<I", size) + frames
        data = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
        assert abs(len(decode(data)) / SAMPLE_RATE - 2) < 0.15
        assert refusal(data[:-500]) == (400, "truncated_audio")


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 8000),
        ("FLAC", "PCM_16", 44_100),
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
        ("MP3", None, SAMPLE_RATE),
    ],
)
def test_joined_files_are_heard_whole(form: str, subtype: str | None, rate: int) -> None:
    first = encode(tone(2.0, rate), rate, form, subtype)
    second = encode(tone(3.0, rate, 880.0), rate, form, subtype)
    found = decode(first + second)
    assert abs(len(found) / SAMPLE_RATE - 5) < 0.25
    assert np.abs(np.fft.rfft(found[8000:24_000])).argmax() == 440
    assert np.abs(np.fft.rfft(found[-24_000:-8000])).argmax() == 880
    assert refusal(first + second[:-100]) == (400, "truncated_audio")


@pytest.mark.parametrize("form", COMPRESSED)
def test_joined_files_of_other_containers_are_heard_whole(form: str) -> None:
    data = compressed(tone(1.0), form)
    assert abs(len(decode(data + data)) / SAMPLE_RATE - 2) < 0.2


def test_files_of_two_rates_may_be_joined_but_not_any_number() -> None:
    low, high = encode(tone(1.0, 8000), 8000), encode(tone(1.0, 48_000), 48_000)
    assert len(decode(low + high)) == 2 * SAMPLE_RATE
    assert refusal(low * 65) == (400, "unsupported_audio")


def test_an_ogg_whose_last_page_does_not_say_so_is_whole() -> None:
    whole = encode(tone(2.0, 48_000), 48_000, "OGG", "OPUS")
    data = bytearray(whole)
    last = data.rfind(b"OggS")
    data[last + 5] &= ~4
    data[last + 22 : last + 26] = bytes(4)
    data[last + 22 : last + 26] = struct.pack("<I", ogg._checksum(data[last:]))
    assert ogg._with_end(bytes(data)) == whole
    assert np.array_equal(decode(bytes(data)), decode(whole))
    assert refusal(bytes(data[:-1])) == (400, "truncated_audio")


def test_an_ogg_without_a_page_in_its_middle_is_refused() -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 4 * SAMPLE_RATE)
    whole = encode(noise, form="OGG", subtype="VORBIS")
    pages = [match.start() for match in re.finditer(b"OggS", whole)]
    assert len(pages) > 4
    assert refusal(whole[: pages[-2]] + whole[pages[-1] :]) == (400, "truncated_audio")


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "W64", "VOC", "NIST", "PVF"])
def test_formats_that_are_not_documented_are_refused(
    form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), SAMPLE_RATE, format=form, subtype="PCM_16")
    capfd.readouterr()
    assert refusal(buffer.getvalue()) == (400, "undecodable_audio")
    assert capfd.readouterr() == ("", "")


def box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    """A sample table that speaks of sixty million samples, in 600 bytes."""
    count = 60_000_000
    config = bytes.fromhex("000000000319000200041140150000000000000000000000000502120806010200")
    entry = box(
        b"mp4a",
        bytes(6) + struct.pack(">H8xHHHHI", 1, 1, 16, 0, 0, 44_100 << 16),
        box(b"esds", config),
    )
    table = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), entry),
        box(b"stts", struct.pack(">IIII", 0, 1, count, 1024)),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, count, 1)),
        box(b"stsz", struct.pack(">III", 0, 1, count)),
        box(b"stco", struct.pack(">III", 0, 1, 40)),
    )
    media = box(
        b"mdia",
        box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, 44_100, count, 0, 0)),
        box(b"hdlr", bytes(8) + b"soun" + bytes(13)),
        box(b"minf", box(b"smhd", bytes(8)), table),
    )
    track = box(b"trak", box(b"tkhd", struct.pack(">I", 7) + bytes(80)), media)
    movie = box(b"moov", box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, 1000, 1000), bytes(80)), track)
    data = box(b"ftyp", b"M4A ", bytes(4)) + movie + box(b"mdat", bytes(100))
    decode(compressed(tone(), "adts"))  # the library is loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(data)[0] in (400, 413)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_seconds_are_known_before_anything_is_decoded() -> None:
    hour = io.BytesIO()
    with soundfile.SoundFile(hour, "w", 8000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8000, np.float32))
    flac = hour.getvalue()
    assert seconds(flac) == pytest.approx(3600, abs=0.1)
    assert seconds(flac_of_length(0)) == pytest.approx(2, abs=0.01)
    assert len(flac) < 100_000
    assert seconds(flac, AudioSpec(max_seconds=3590)) is None
    assert refusal(flac, AudioSpec(max_seconds=3590)) == (413, "too_long")
    assert seconds(b"no audio") is None


def test_a_worker_without_the_decoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    ffmpeg._library.cache_clear()
    assert refusal(encode(tone(), form="FLAC")) == (415, "unsupported_type")
    assert len(decode(encode(tone()))) == 2 * SAMPLE_RATE
    ffmpeg._library.cache_clear()


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
