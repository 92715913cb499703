"""The format of a recording by its first bytes, and the streams that it holds, end to end.

Nothing is decoded. A stream says whether its structure breaks off: a page, box or element that
is longer than what is left of the file. What a header says about its length is left alone: files
that were streamed hold placeholders and estimates there.
"""

import dataclasses
import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from handlers import ogg, wav

Kind = Literal["wav", "flac", "ogg", "mp3", "aac", "mp4", "webm"]

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_EBML = re.compile(rb"\x1aE\xdf\xa3.{1,60}?\x42\x82.(?:webm|matroska)", re.DOTALL)
_SYNC = re.compile(rb"\xff[\xe0-\xff]")
MOST_STREAMS = 64  # joined in one file; one more is given, for the caller to refuse
_JUNK = 65_536  # bytes in which the first frame of an mp3 or aac file is looked for
_MOST_TAGS = 16
_MOST_PIECES = 1_000_000  # boxes or elements that are looked at: five hours of them
_FRAMES = 3  # that follow one another are no chance

# Layer III bit rates in kbit/s, of MPEG-1 and of MPEG-2 and 2.5; sample rates in Hz by version.
_KBITS = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_EBML_HEADER, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675


@dataclass(frozen=True)
class Stream:
    """One stream of a file.

    Attributes:
        kind: its format.
        data: its bytes.
        cut: whether its structure, or what a wav's header says, breaks off.
        frames: samples per channel that it must hold; 0 where nothing is said.
        codec: a wav's format tag.
    """

    kind: Kind
    data: bytes
    cut: bool = False
    frames: int = 0
    codec: int = 0


def streams(data: bytes, max_seconds: float) -> list[Stream]:
    """The streams of a file, in order; empty where its format is none of ours.

    Args:
        data: a file.
        max_seconds: see `wav.streams`.
    """
    data = _without_tags(data)
    if wav.is_wav(data):
        return list(itertools.islice(_wav(data, max_seconds), MOST_STREAMS + 1))
    if _FLAC.match(data):
        parts = _split(data, _starts(_FLAC, data))
        return [Stream("flac", part, frames=_flac_frames(part)) for part in parts]
    if data[:4] == b"OggS":
        links = itertools.islice(ogg.links(data), MOST_STREAMS + 1)
        return [Stream("ogg", link.data, link.cut) for link in links]
    if data[4:8] == b"ftyp":
        return _mp4(data)
    if _EBML.match(data):
        parts = _split(data, _starts(_EBML, data))
        return [Stream("webm", part, _webm_cut(part)) for part in parts]
    return _mpeg(data, "mp3") or _mpeg(data, "aac")


def frame_bytes(kind: Kind, data: bytes, place: int = 0) -> int:
    """Bytes of the mp3 or aac (ADTS) frame that begins at `place`; 0 where none does."""
    if place + 6 > len(data) or data[place] != 0xFF:
        return 0
    second, third = data[place + 1], data[place + 2]
    if kind == "aac":
        if second & 0xF6 != 0xF0 or third >> 2 & 15 > 12:
            return 0
        size = (data[place + 3] & 3) << 11 | data[place + 4] << 3 | data[place + 5] >> 5
        return size if size > 7 else 0
    version, layer = second >> 3 & 3, second >> 1 & 3
    if second & 0xE0 != 0xE0 or version == 1 or layer != 1:
        return 0
    if third >> 4 in (0, 15) or third >> 2 & 3 == 3:
        return 0
    bits = _KBITS[version != 3][third >> 4] * 1000
    return (144 if version == 3 else 72) * bits // _RATES[version][third >> 2 & 3] + (
        third >> 1 & 1
    )


def _without_tags(data: bytes) -> bytes:
    """`data` without the ID3v2 tags before it."""
    start = 0
    for _ in range(_MOST_TAGS):
        if data[start : start + 3] != b"ID3" or start + 10 > len(data):
            break
        flags, *size = data[start + 5 : start + 10]
        if max(size) > 127:
            break
        start += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
        start += 10 if flags & 0x10 else 0
    return data[start:]


def _wav(data: bytes, max_seconds: float) -> Iterator[Stream]:
    for part in wav.streams(data, max_seconds):
        if part.codec == wav.MP3:
            for stream in _mpeg(part.data, "mp3"):
                yield dataclasses.replace(stream, cut=part.cut)
        else:
            yield Stream("wav", part.data, part.cut, codec=part.codec)


def _starts(opening: re.Pattern[bytes], data: bytes) -> list[int]:
    return [match.start() for match in itertools.islice(opening.finditer(data), MOST_STREAMS + 1)]


def _split(data: bytes, starts: list[int]) -> list[bytes]:
    if len(starts) == 1:
        return [data]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _flac_frames(data: bytes) -> int:
    """Samples per channel that STREAMINFO says, 0 for unknown (RFC 9639, 8.2)."""
    total = int.from_bytes(data[18:26], "big") & 0xF_FFFF_FFFF
    return 0 if total == 0xF_FFFF_FFFF else total


def _mpeg(data: bytes, kind: Kind) -> list[Stream]:
    """An mp3 or aac stream, from its first frame; empty if there is none."""
    for match in _SYNC.finditer(data, 0, _JUNK):
        place, count = match.start(), 0
        while count < _FRAMES and (size := frame_bytes(kind, data, place)):
            place, count = place + size, count + 1
        if count == _FRAMES or (count and place >= len(data)):
            start = match.start()
            found = data[start:] if start else data
            return [Stream(kind, found, frames=_xing_frames(found) if kind == "mp3" else 0)]
    return []


def _xing_frames(data: bytes) -> int:
    """Samples per channel that the first frame's Xing or Info tag counts; 0 without one."""
    head = data[: frame_bytes("mp3", data)]
    places = [place for place in (head.find(b"Xing"), head.find(b"Info")) if 0 < place <= 40]
    if not places or len(head) < places[0] + 12 or not head[places[0] + 7] & 1:
        return 0
    (frames,) = struct.unpack_from(">I", head, places[0] + 8)
    return int(frames) * (1152 if head[1] >> 3 & 3 == 3 else 576)


def _mp4(data: bytes) -> list[Stream]:
    """The files in `data`: each begins with a box `ftyp`."""
    starts, place, cut = [], 0, False
    for _ in range(_MOST_PIECES):
        if place + 8 > len(data):
            break
        size, name = struct.unpack_from(">I4s", data, place)
        if not name.isalnum() and name not in (b"\xa9xyz", b"uuid"):
            break  # padding after the last box
        if size == 1 and place + 16 <= len(data):
            (size,) = struct.unpack_from(">Q", data, place + 8)
        elif size == 0:
            size = len(data) - place
        if size < 8:
            break
        if name == b"ftyp":
            starts.append(place)
        if len(starts) > MOST_STREAMS:
            break
        place += size
        cut = place > len(data)
    parts = _split(data, starts or [0])
    return [Stream("mp4", part, cut and part is parts[-1]) for part in parts]


def _webm_cut(data: bytes) -> bool:
    """Whether an element of a WebM file is longer than the file; live ones say no length."""
    place = 0
    for _ in range(_MOST_PIECES):
        if place >= len(data):
            break
        name, body = _vint(data, place, keep_marker=True)
        size, body = _vint(data, body) if body <= len(data) else (0, body)
        if body > len(data):
            return True
        unknown = size < 0
        if unknown or name in (_SEGMENT, _CLUSTER):
            if not unknown and body + size > len(data):
                return True
            place = body
        else:
            place = body + size
    return place > len(data)


def _vint(data: bytes, place: int, keep_marker: bool = False) -> tuple[int, int]:
    """An EBML number and the place behind it; -1 for "unknown". Past the end: cut short."""
    first = data[place] if place < len(data) else 0
    length = 9 - first.bit_length() if first else 8
    raw = int.from_bytes(data[place : place + length], "big")
    if keep_marker:
        return raw, place + length
    value = raw & (1 << 7 * length) - 1
    return (-1 if value == (1 << 7 * length) - 1 else value), place + length
