"""Compressed audio through ffmpeg's demuxers and decoders (PyAV), kept on a short leash.

A stream is opened from memory, by the demuxer of its own format and with the decoders listed
here: nothing is guessed, and nothing beside the bytes is read. ffmpeg believes headers, so no
block of memory that it asks for may be large, and what it gives is counted.
"""

import ctypes
import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.audio_header import Stream, frame_bytes
from handlers.errors import RequestError

Samples = npt.NDArray[np.float32]

DEMUXERS = {
    "flac": "flac",
    "ogg": "ogg",
    "mp3": "mp3",
    "aac": "aac",
    "mp4": "mov",
    "webm": "matroska",
}
_OPTIONS = {
    "protocol_whitelist": "",
    "probesize": str(1 << 18),  # bytes that are held until the codec is known
    "codec_whitelist": "flac,vorbis,opus,mp3float,aac,alac",
}
_LARGEST_BLOCK = 1 << 24  # bytes: an hour's index has a third of it
_MOST_PACKETS_A_SECOND = 400  # of Opus, 2.5 ms each
_SLACK_SECONDS = 1.0  # what a decoder may hold back, or add at the start
_LOST_SECONDS = 0.1  # of broken packets, which is less than a word


@dataclass(frozen=True)
class Survey:
    """What a stream's packets add up to, before any is decoded.

    Attributes:
        seconds: of all packets.
        rate: Hz.
        channels: how many.
        cut: whether the last packet is shorter than it says.
    """

    seconds: float
    rate: int
    channels: int
    cut: bool


@functools.cache
def _library() -> Any:
    """The module `av`, told to ask for no large blocks of memory."""
    try:
        import av
    except ImportError as error:
        raise RequestError(
            415,
            "unsupported_type",
            "this worker takes wav only: flac, ogg, mp3, aac, m4a and webm need the package av "
            "(pip install av) where it runs",
        ) from error
    # A sample table of 600 bytes may speak of a billion samples; no option of ffmpeg's bounds it.
    for path in (Path(av.__file__).parent.parent / "av.libs").glob("libavutil*"):
        ctypes.CDLL(str(path)).av_max_alloc(ctypes.c_size_t(_LARGEST_BLOCK))
    return av


def survey(stream: Stream, max_seconds: float) -> Survey | None:
    """Walk over a stream's packets; None where there is no audio that can be read.

    Stops once there are more than `max_seconds`.

    Raises:
        RequestError: 415 where the package av is not installed.
    """
    av = _library()
    ticks, last = 0, b""
    try:
        with _open(stream) as container:
            track = _track(container)
            if track is None:
                return None
            step = float(track.time_base)
            for count, packet in enumerate(container.demux(track)):
                ticks += _duration(packet)
                if ticks * step > max_seconds or count > max_seconds * _MOST_PACKETS_A_SECOND:
                    break
                last = bytes(packet) if packet.size else last
            return Survey(
                max(0.0, ticks * step),
                track.codec_context.sample_rate,
                track.codec_context.channels,
                frame_bytes(stream.kind, last) > len(last),
            )
    except (av.error.FFmpegError, ValueError, OverflowError):
        return None


def decode(stream: Stream, seconds: float) -> Iterator[tuple[int, Samples]]:
    """A stream's samples, as (rate in Hz, mono float32) blocks of 10 to 200 ms.

    Args:
        stream: one that `survey` could read.
        seconds: by its survey; what decodes to more was not what it said.

    Raises:
        RequestError: 400 when packets cannot be decoded, or when samples are missing.
    """
    av = _library()
    frames, rate, lost, broken = 0, 1, 0.0, False
    try:
        with _open(stream) as container:
            track = _track(container)
            step = float(track.time_base)
            for packet in container.demux(track):
                try:
                    decoded = packet.decode()
                    broken &= not decoded
                except av.error.FFmpegError:
                    decoded, broken = [], True
                    lost += _duration(packet) * step
                for frame in decoded:
                    rate, frames = frame.sample_rate, frames + frame.samples
                    yield rate, _mono(frame)
                if lost > _LOST_SECONDS:
                    break
                if frames / rate > seconds + _SLACK_SECONDS:
                    raise RequestError(
                        400,
                        "damaged_audio",
                        "the audio decodes to more than its packets say: encode it again",
                    )
    except (av.error.FFmpegError, ValueError, OverflowError) as error:
        raise truncated() from error
    missing = stream.kind == "flac" and frames < stream.frames
    if broken or (missing and lost <= _LOST_SECONDS):
        raise truncated()  # FLAC counts its samples; an mp3's are trimmed at both ends
    if lost > _LOST_SECONDS:
        raise RequestError(
            400,
            "damaged_audio",
            "parts of the audio are damaged and cannot be decoded: send the whole file again",
        )


def truncated() -> RequestError:
    return RequestError(
        400, "truncated_audio", "the audio ends before its header says: send the whole file"
    )


def _open(stream: Stream) -> Any:
    return _library().open(
        io.BytesIO(stream.data),
        format=DEMUXERS[stream.kind],
        options=_OPTIONS,
        metadata_errors="ignore",
    )


def _track(container: Any) -> Any:
    """The first audio track that can be decoded; None if there is none."""
    for track in container.streams.audio:
        if track.codec_context is not None and track.codec_context.sample_rate:
            track.codec_context.thread_count = 1
            return track
    return None


def _duration(packet: Any) -> int:
    """In the track's time base; ffmpeg wraps what an Ogg's end takes off its last packet."""
    duration: int = packet.duration or 0
    return duration - (1 << 32) if 1 << 31 <= duration < 1 << 32 else duration


def _mono(frame: Any) -> Samples:
    """A frame's channels averaged, float32 from -1 to 1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype == np.uint8:
        values = values.astype(np.float32) - 128
        scale = 128.0
    else:
        scale = {"int16": 32_768.0, "int32": 2_147_483_648.0}.get(values.dtype.name, 1.0)
    if scale != 1.0:
        values = values.astype(np.float32) / np.float32(scale)
    mono = values[0] if len(values) == 1 else values.mean(0, dtype=np.float32)
    return np.ascontiguousarray(mono, np.float32)
