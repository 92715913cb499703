"""Audio files to model input: 16 kHz mono float32, in blocks, to bound the memory of an hour.

wav through libsndfile, everything else through ffmpeg; any rate through soxr, channels averaged.
What a header says of a length is a hint: files that were streamed hold placeholders there. What
is in the file is counted before anything is decoded, and is all decoded, also where several
streams were joined; a file that was cut short is refused rather than half transcribed.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from handlers import ffmpeg, wav
from handlers.audio_header import MOST_STREAMS, Stream, streams
from handlers.errors import ModelError, RequestError
from handlers.ffmpeg import truncated

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
DEFAULT_MAX_SECONDS = 3600.0
DEFAULT_MAX_BYTES = 33_554_432
LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 4_000, 192_000, 16
FORMATS = "wav, flac, ogg (Vorbis, Opus), mp3, aac, m4a (or mp4), webm"
_PCM = {"pcm_s16le": ("RAW", "PCM_16"), "pcm_f32le": ("RAW", "FLOAT"), "mulaw": ("RAW", "ULAW")}
PCM_ENCODINGS = tuple(_PCM)
_BLOCK_SECONDS = 1
_SLACK_SECONDS = 1.0
_MISSING_SAMPLES = 1800  # of what a header counts: encoders may count a frame more


@dataclass(frozen=True)
class AudioSpec:
    """Limits of one recording, from the card's `input`."""

    max_seconds: float = DEFAULT_MAX_SECONDS
    max_bytes: int = DEFAULT_MAX_BYTES

    @classmethod
    def from_card(cls, entry: Mapping[str, Any]) -> "AudioSpec":
        """The card's `input`; ModelError when a limit is not a positive number."""
        try:
            spec = cls(
                float(entry.get("max_seconds", DEFAULT_MAX_SECONDS)),
                int(entry.get("max_bytes", DEFAULT_MAX_BYTES)),
            )
        except (TypeError, ValueError) as error:
            raise ModelError(f"model.json: input.max_seconds, input.max_bytes: {error}") from error
        if spec.max_seconds <= 0 or spec.max_bytes <= 0:
            raise ModelError("model.json: input.max_seconds and input.max_bytes must be positive")
        return spec


class Recording:
    """One checked recording; its samples are decoded as they are asked for.

    Attributes:
        seconds: by the packets or bytes that are there; once decoded, by its samples.
    """

    def __init__(
        self, data: bytes, spec: AudioSpec, encoding: str | None = None, rate: int | None = None
    ) -> None:
        """Count what is there.

        Args:
            data: a whole file, or headerless PCM when `encoding` is given.
            spec: limits.
            encoding: one of PCM_ENCODINGS, mono.
            rate: of PCM, Hz.

        Raises:
            RequestError: 400 for an empty, damaged or truncated file or an unknown format; 413
                for more bytes or seconds than the limits; 415 for a format whose decoder is not
                installed.
        """
        if len(data) > spec.max_bytes:
            raise RequestError(
                413, "too_many_bytes", f"{len(data)} bytes of audio, the limit is {spec.max_bytes}"
            )
        if not data:
            raise RequestError(400, "empty_input", "the audio is empty")
        self.spec = spec
        self._raw: dict[str, Any] = {}
        if encoding is not None:
            form, subtype = _PCM[encoding]
            self._raw = {
                "format": form,
                "subtype": subtype,
                "channels": 1,
                "samplerate": rate or SAMPLE_RATE,
                "endian": "LITTLE" if encoding != "mulaw" else "FILE",
            }
            self._streams = [Stream("wav", data)]
        else:
            self._streams = streams(data, spec.max_seconds)
            self._check_formats(data)
        self._lengths: list[float] = []
        for stream in self._streams:
            self._lengths.append(self._length(stream))
            # Packets may add up to a little more than they decode to.
            self._check_length(sum(self._lengths) - (0 if stream.kind == "wav" else _SLACK_SECONDS))
        self.seconds = sum(self._lengths)
        if self.seconds <= 0:
            raise RequestError(400, "empty_input", "the audio holds no samples")

    def _check_formats(self, data: bytes) -> None:
        if not self._streams and wav.is_wav(data) and data.find(b"fmt ") > 0:
            raise RequestError(400, "empty_input", "the audio holds no samples")
        unknown = any(s.kind == "wav" and s.codec not in wav.CODECS for s in self._streams)
        if not self._streams or unknown:
            raise _undecodable()
        if len(self._streams) > MOST_STREAMS:
            raise RequestError(
                400,
                "unsupported_audio",
                f"the file joins more than {MOST_STREAMS} recordings: send them one by one",
            )

    def _length(self, stream: Stream) -> float:
        """Seconds of a stream, which is checked."""
        if stream.kind == "wav":
            with self._open(stream) as file:
                rate, channels, frames = file.samplerate, file.channels, file.frames
            _check_layout(rate, channels)
            seconds, cut = float(frames / rate), stream.cut
        else:
            limit = self.spec.max_seconds + _SLACK_SECONDS
            survey = ffmpeg.survey(stream, limit)
            if survey is None:
                raise truncated() if stream.cut else _undecodable()
            _check_layout(survey.rate, survey.channels)
            seconds, cut = survey.seconds, stream.cut or survey.cut
            counted = seconds * survey.rate + _MISSING_SAMPLES
            cut |= seconds <= limit and stream.frames > counted
        if cut:
            raise truncated()
        return seconds

    def _open(self, stream: Stream) -> soundfile.SoundFile:
        try:
            return soundfile.SoundFile(io.BytesIO(stream.data), **self._raw)
        except (soundfile.SoundFileError, ValueError, TypeError) as error:
            raise (truncated() if stream.cut else _undecodable()) from error

    def _check_length(self, seconds: float) -> None:
        if seconds > self.spec.max_seconds:
            raise RequestError(
                413,
                "too_long",
                f"{seconds:.0f} s of audio or more, the limit is {self.spec.max_seconds:.0f} s",
            )

    def blocks(self) -> Iterator[Samples]:
        """Mono float32 samples at 16 kHz, in blocks of about a second.

        Raises:
            RequestError: 400 when the stream breaks off or holds NaN or infinity; 413 as soon
                as there are more seconds than the limit.
        """
        total = 0.0
        resampler = _Resampler()
        for rate, mono in self._decoded():
            total += len(mono) / rate
            self._check_length(total)
            if not np.isfinite(mono).all():
                raise RequestError(
                    400, "bad_samples", "the audio holds samples that are not finite numbers"
                )
            yield from resampler.feed(rate, mono)
        yield from resampler.end()
        self.seconds = total
        if not total:
            raise RequestError(400, "empty_input", "the audio holds no samples")

    def _decoded(self) -> Iterator[tuple[int, Samples]]:
        """(rate in Hz, mono float32) blocks of about a second, of one stream after the other."""
        for stream, seconds in zip(self._streams, self._lengths, strict=True):
            blocks = self._wav(stream)
            if stream.kind != "wav":
                blocks = _regrouped(ffmpeg.decode(stream, seconds))
            yield from blocks

    def _wav(self, stream: Stream) -> Iterator[tuple[int, Samples]]:
        frames = 0
        with self._open(stream) as file:
            count = file.samplerate * _BLOCK_SECONDS
            while True:
                try:
                    block = file.read(count, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise truncated() from error
                frames += len(block)
                mono = block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)
                if len(mono):
                    yield file.samplerate, np.ascontiguousarray(mono)
                if len(block) < count:
                    break
            if frames < file.frames:
                raise truncated()

    def samples(self) -> Samples:
        """All samples at once; see `blocks`."""
        blocks = list(self.blocks())
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


class _Resampler:
    """Blocks of any rates to 16 kHz; a rate that changes begins anew."""

    def __init__(self) -> None:
        self.rate = SAMPLE_RATE
        self.stream: Any = None

    def feed(self, rate: int, mono: Samples) -> Iterator[Samples]:
        if rate != self.rate:
            yield from self.end()
            self.rate = rate
            if rate != SAMPLE_RATE:
                self.stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
        block = mono if self.stream is None else self.stream.resample_chunk(mono)
        if len(block):
            yield block

    def end(self) -> Iterator[Samples]:
        if self.stream is not None:
            block = self.stream.resample_chunk(np.zeros(0, np.float32), last=True)
            if len(block):
                yield block
        self.stream, self.rate = None, SAMPLE_RATE


def _regrouped(blocks: Iterator[tuple[int, Samples]]) -> Iterator[tuple[int, Samples]]:
    """Short blocks joined to about a second of one rate."""
    held: list[Samples] = []
    count = held_rate = 0
    for rate, mono in blocks:
        if held and (rate != held_rate or count >= rate * _BLOCK_SECONDS):
            yield held_rate, np.concatenate(held)
            held, count = [], 0
        held.append(mono)
        held_rate, count = rate, count + len(mono)
    if held:
        yield held_rate, np.concatenate(held)


def decode(data: bytes, spec: AudioSpec | None = None) -> Samples:
    """A whole audio file as mono float32 samples at 16 kHz; RequestError as `Recording`."""
    return Recording(data, spec or AudioSpec()).samples()


def seconds(data: bytes, spec: AudioSpec | None = None) -> float | None:
    """What transcribing a file is to be charged with, in seconds of audio, before it is decoded.

    Decoding stops where a recording turns out to be longer. None for a file that is refused.
    """
    try:
        return Recording(data, spec or AudioSpec()).seconds
    except RequestError:
        return None


def _undecodable() -> RequestError:
    return RequestError(
        400,
        "undecodable_audio",
        f"this is no audio that can be read: send {FORMATS}; headerless samples need the "
        f"parameter encoding ({', '.join(PCM_ENCODINGS)})",
    )


def _check_layout(rate: int, channels: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or channels > MOST_CHANNELS:
        raise RequestError(
            400,
            "unsupported_audio",
            f"{channels} channels at {rate} Hz: send 1 to {MOST_CHANNELS} channels "
            f"at {LOWEST_RATE} to {HIGHEST_RATE} Hz",
        )
