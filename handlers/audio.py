"""Audio files to model input: 16 kHz mono float32, in blocks, to bound the memory of an hour.

wav, flac, ogg and mp3 through libsndfile, any rate through soxr, channels averaged. The length
in a header is checked before anything is decoded, and the samples against it: a file that was
cut short is refused rather than half transcribed.
"""

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from handlers.errors import ModelError, RequestError

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16_000
DEFAULT_MAX_SECONDS = 3600.0
DEFAULT_MAX_BYTES = 33_554_432
LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 4_000, 192_000, 16
_PCM = {"pcm_s16le": ("RAW", "PCM_16"), "pcm_f32le": ("RAW", "FLOAT"), "mulaw": ("RAW", "ULAW")}
PCM_ENCODINGS = tuple(_PCM)
_OGG_LAST_PAGE = 4
_UNKNOWN_LENGTH = (0, 0xFFFFFFFF)  # written by programs that stream a wav into a pipe
_BLOCK_SECONDS = 1


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
    """One checked recording; its samples are decoded as they are asked for."""

    def __init__(
        self, data: bytes, spec: AudioSpec, encoding: str | None = None, rate: int | None = None
    ) -> None:
        """Check the header.

        Args:
            data: a whole file, or headerless PCM when `encoding` is given.
            spec: limits.
            encoding: one of PCM_ENCODINGS, mono.
            rate: of PCM, Hz.

        Raises:
            RequestError: 400 for an empty or damaged file or an unknown format; 413 for more
                bytes or seconds than the limits.
        """
        if len(data) > spec.max_bytes:
            raise RequestError(
                413, "too_many_bytes", f"{len(data)} bytes of audio, the limit is {spec.max_bytes}"
            )
        if not data:
            raise RequestError(400, "empty_input", "the audio is empty")
        self.data, self.spec = data, spec
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
        with self._open() as file:
            self.rate, self.channels, self.frames = file.samplerate, file.channels, file.frames
        claimed = max(self.frames, _claimed_wav_frames(data))
        self.seconds = self.frames / self.rate
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE or self.channels > MOST_CHANNELS:
            raise RequestError(
                400,
                "unsupported_audio",
                f"{self.channels} channels at {self.rate} Hz: send 1 to {MOST_CHANNELS} channels "
                f"at {LOWEST_RATE} to {HIGHEST_RATE} Hz",
            )
        self._check_length(claimed)
        if claimed > self.frames or _ogg_cut_short(data):
            raise _truncated()
        if self.frames <= 0:
            raise RequestError(400, "empty_input", "the audio holds no samples")

    def _open(self) -> soundfile.SoundFile:
        try:
            return soundfile.SoundFile(io.BytesIO(self.data), **self._raw)
        except (soundfile.SoundFileError, ValueError, TypeError) as error:
            if self.data[28:35] in (b"\x01vorbis", b"OpusHea") and _ogg_cut_short(self.data):
                raise _truncated() from error
            raise RequestError(
                400,
                "undecodable_audio",
                "this is not wav, flac, ogg or mp3 audio that can be read; headerless samples "
                f"need the parameter encoding ({', '.join(PCM_ENCODINGS)})",
            ) from error

    def _check_length(self, frames: int) -> None:
        if frames / self.rate > self.spec.max_seconds:
            raise RequestError(
                413,
                "too_long",
                f"{frames / self.rate:.0f} s of audio, the limit is {self.spec.max_seconds:.0f} s",
            )

    def blocks(self) -> Iterator[Samples]:
        """Mono float32 samples at 16 kHz, in blocks of about a second.

        Raises:
            RequestError: 400 when the stream breaks off or holds NaN or infinity.
        """
        resampler = None
        if self.rate != SAMPLE_RATE:
            resampler = soxr.ResampleStream(self.rate, SAMPLE_RATE, 1, dtype="float32")
        frames = 0
        with self._open() as file:
            while True:
                try:
                    block = file.read(self.rate * _BLOCK_SECONDS, dtype="float32", always_2d=True)
                except soundfile.SoundFileError as error:
                    raise _truncated() from error
                last = len(block) < self.rate * _BLOCK_SECONDS
                frames += len(block)
                self._check_length(frames)
                mono = block[:, 0] if block.shape[1] == 1 else block.mean(1, dtype=np.float32)
                if not np.isfinite(mono).all():
                    raise RequestError(
                        400, "bad_samples", "the audio holds samples that are not finite numbers"
                    )
                mono = np.ascontiguousarray(mono)
                if resampler is not None:
                    mono = resampler.resample_chunk(mono, last=last)
                if len(mono):
                    yield mono
                if last:
                    break
        if frames < self.frames:
            raise _truncated()

    def samples(self) -> Samples:
        """All samples at once; see `blocks`."""
        blocks = list(self.blocks())
        return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def decode(data: bytes, spec: AudioSpec | None = None) -> Samples:
    """A whole audio file as mono float32 samples at 16 kHz; RequestError as `Recording`."""
    return Recording(data, spec or AudioSpec()).samples()


def _truncated() -> RequestError:
    return RequestError(
        400, "truncated_audio", "the audio ends before its header says: send the whole file"
    )


def _claimed_wav_frames(data: bytes) -> int:
    """Frames that a wav's header claims, 0 where it claims nothing: libsndfile cuts them down."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return 0
    offset, frame_bytes = 12, 0
    while offset + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, offset)
        if name == b"fmt " and offset + 22 <= len(data):
            frame_bytes = struct.unpack_from("<H", data, offset + 20)[0]
        if name == b"data":
            return 0 if size in _UNKNOWN_LENGTH or not frame_bytes else size // frame_bytes
        offset += 8 + size + size % 2
    return 0


def _ogg_cut_short(data: bytes) -> bool:
    """Whether an ogg stream lacks its last page, or a part of it."""
    if data[:4] != b"OggS":
        return False
    last = data.rfind(b"OggS")
    if last + 27 > len(data) or not data[last + 5] & _OGG_LAST_PAGE:
        return True
    lengths = data[last + 27 : last + 27 + data[last + 26]]
    return last + 27 + data[last + 26] + sum(lengths) > len(data)
