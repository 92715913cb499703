"""Wav files: the streams in one, and what its headers do not know.

A program that writes a wav into a pipe cannot know its length, and leaves a placeholder: 0, all
ones, or a number near 2^31. Such a header is mended to what follows it. A length that a file
could have and does not is a claim: that file was cut short.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MP3 = 0x0055
# PCM, Microsoft ADPCM, float, A-law, mu-law, IMA ADPCM, GSM 6.10: what libsndfile is given.
CODECS = frozenset({0x0001, 0x0002, 0x0003, 0x0006, 0x0007, 0x0011, 0x0031})
_EXTENSIBLE = 0xFFFE
_FORMS = (b"RIFF", b"RF64", b"BW64")
_PLACEHOLDER = 0x7700_0000  # near 2^31 and above: longer than any file that is sent
_IN_DS64 = 0xFFFF_FFFF


@dataclass(frozen=True)
class WavStream:
    """One wav of a file that may hold several.

    Attributes:
        data: the bytes of a whole wav; of MP3 in wav, the MP3 stream alone.
        codec: its format tag; of an extensible header, the one inside.
        cut: whether samples that the header speaks of are missing.
    """

    data: bytes
    codec: int
    cut: bool


@dataclass
class _Header:
    """What the chunks before the samples say."""

    layout: bytes = b""  # the body of "fmt "
    fact: bytes = b""  # the whole chunk
    long_size: int | None = None

    @property
    def codec(self) -> int:
        codec: int = struct.unpack_from("<H", self.layout)[0]
        if codec == _EXTENSIBLE and len(self.layout) >= 26:
            codec = struct.unpack_from("<H", self.layout, 24)[0]
        return codec

    def seconds(self, size: int) -> float:
        """Of `size` bytes of samples."""
        bytes_a_second: int = struct.unpack_from("<I", self.layout, 8)[0]
        return size / max(1, bytes_a_second)


def is_wav(data: bytes, start: int = 0) -> bool:
    """Whether a wav begins at `start`."""
    return data[start : start + 4] in _FORMS and data[start + 8 : start + 12] == b"WAVE"


def streams(data: bytes, max_seconds: float) -> Iterator[WavStream]:
    """The wavs in a file, end to end; those without samples are left out.

    Args:
        data: a file of which `is_wav` is true.
        max_seconds: a header that says more than this, of bytes that are not there, holds a
            placeholder.
    """
    start = 0
    while is_wav(data, start):
        stream, end = _stream(data, start, max_seconds)
        if stream is not None:
            yield stream
        start = _next_wav(data, end)


def _stream(data: bytes, start: int, max_seconds: float) -> tuple[WavStream | None, int]:
    """The wav at `start`, and where its samples end."""
    header, place = _Header(), start + 12
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        body = place + 8
        if name == b"data":
            if size == _IN_DS64 and header.long_size is not None:
                size = header.long_size
            if len(header.layout) < 16:
                break
            return _with_samples(data, start, body, size, header, max_seconds)
        if name == b"fmt ":
            header.layout = data[body : body + size]
        elif name == b"fact":
            header.fact = data[place : body + size]
        elif name == b"ds64" and body + 16 <= len(data):
            (header.long_size,) = struct.unpack_from("<Q", data, body + 8)
        place = body + size + size % 2
    return None, len(data)


def _with_samples(
    data: bytes, start: int, body: int, size: int, header: _Header, max_seconds: float
) -> tuple[WavStream | None, int]:
    available = len(data) - body
    unknown = size > available and (size >= _PLACEHOLDER or header.seconds(size) > max_seconds)
    unknown = unknown or (size == 0 and available > 0 and not _chunks_follow(data, body))
    if unknown:
        size = available
    cut = size > available
    end = min(len(data), body + size)
    if not size:
        return None, end
    samples = data[body:end]
    if header.codec == MP3:
        return WavStream(samples, MP3, cut), end
    if start == 0 and end == len(data) and not unknown and data[:4] == b"RIFF":
        return WavStream(data, header.codec, cut), end
    return WavStream(_rebuilt(header, samples), header.codec, cut), end


def _rebuilt(header: _Header, samples: bytes) -> bytes:
    """A plain wav of the same layout."""
    layout = struct.pack("<4sI", b"fmt ", len(header.layout)) + header.layout
    pad = b"\0" * (len(layout) % 2)
    held = struct.pack("<4sI", b"data", len(samples)) + samples
    chunks = b"WAVE" + layout + pad + header.fact + b"\0" * (len(header.fact) % 2) + held
    return struct.pack("<4sI", b"RIFF", len(chunks)) + chunks


def _next_wav(data: bytes, place: int) -> int:
    """Where the wav after `place` begins; the end of `data` if there is none.

    Chunks may lie between; a byte of padding after an odd number of samples may be missing.
    """
    for skipped in (place, place + place % 2):
        start = skipped
        while start + 8 <= len(data) and not is_wav(data, start):
            (size,) = struct.unpack_from("<I", data, start + 4)
            start += 8 + size + size % 2
        if is_wav(data, start):
            return start
    return len(data)


def _chunks_follow(data: bytes, place: int) -> bool:
    """Whether what stands from `place` to the end is chunks, not samples."""
    while place + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, place)
        if not (name.isascii() and name.decode("ascii").isprintable()) or size > len(data) - place:
            return False
        place += 8 + size + size % 2
    return len(data) - place <= 1
