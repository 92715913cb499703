"""Ogg (RFC 3533): the links of a chain, and whether pages are missing.

Read page by page: one that ends the file early, or whose number does not follow, takes its
samples with it. The mark of the last page says nothing: some programs leave it out.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_FIRST, _LAST = 2, 4
_MOST_STREAMS = 16  # side by side in one link


@dataclass(frozen=True)
class Link:
    """One link of a chain: its bytes, and whether pages or a part of one are missing."""

    data: bytes
    cut: bool


def links(data: bytes) -> Iterator[Link]:
    """The links of a chain: each begins with the first pages of its streams."""
    start, place, cut, opening = 0, 0, False, True
    pages: dict[int, int] = {}  # number of the last page, by stream
    unfinished: set[int] = set()  # streams whose last packet goes on
    while data[place : place + 4] == b"OggS" and place + 27 <= len(data):
        flags, serial, number, count = struct.unpack_from("<B8xII4xB", data, place + 5)
        if flags & _FIRST and not opening:
            yield Link(_with_end(data[start:place]), cut or bool(unfinished))
            start, cut, pages, unfinished = place, False, {}, set()
        opening = bool(flags & _FIRST)
        if len(pages) > _MOST_STREAMS:
            return
        lengths = data[place + 27 : place + 27 + count]
        size = 27 + count + sum(lengths)
        # A page that was left out took its samples with it.
        cut |= number > pages.get(serial, number) + 1
        cut |= place + size > len(data)
        pages[serial] = number
        (unfinished.add if lengths[-1:] == b"\xff" else unfinished.discard)(serial)
        place += size
    cut |= 0 < len(data) - place < 27
    yield Link(_with_end(data[start:]), cut or bool(unfinished))


def _with_end(link: bytes) -> bytes:
    """`link` with its last page marked as such, for a decoder to trim what it pads."""
    last = link.rfind(b"OggS")
    if last + 27 > len(link) or link[last + 5] & _LAST:
        return link
    lengths = link[last + 27 : last + 27 + link[last + 26]]
    end = last + 27 + len(lengths) + sum(lengths)
    page = bytearray(link[last:end])
    page[5] |= _LAST
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", _checksum(page))
    return link[:last] + page + link[end:]


def _checksum(page: bytearray) -> int:
    """The CRC-32 of an Ogg page (RFC 3533, 6)."""
    value = 0
    for byte in page:
        value = value << 8 & 0xFFFF_FFFF ^ _CRC[value >> 24 ^ byte]
    return value


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        value <<= 24
        for _ in range(8):
            value = value << 1 ^ 0x04C1_1DB7 if value & 0x8000_0000 else value << 1
        table.append(value & 0xFFFF_FFFF)
    return tuple(table)


_CRC = _crc_table()
