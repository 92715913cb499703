"""The part of an image file that its first picture is made of.

Animation, texts, profiles and previews are left out before a decoder sees them: broken ones are
no reason to refuse a whole picture, and decoders spend seconds and gigabytes on crafted ones.
Layouts: PNG (W3C) 5, GIF89a 15 to 25.
"""

from handlers.errors import RequestError

MAX_CHUNKS = 65_536
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"})


def still_png(data: bytes) -> bytes:
    """The chunks of the still picture; from a chunk that is cut short on, everything.

    Raises RequestError 413 for more than MAX_CHUNKS chunks.
    """
    kept, at = [data[:8]], 8
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            kept.append(data[at:])
            break
        if kind in _PNG_KEPT or _is_critical(kind):
            kept.append(data[at:end])
        at = end
        if kind == b"IEND":
            break
    else:
        raise _too_many("PNG")
    return b"".join(kept)


def still_gif(data: bytes) -> bytes:
    """Screen, palettes and first frame with its transparency; all of it if that never ends.

    Raises RequestError 413 for more than MAX_CHUNKS blocks.
    """
    at = 13 + _palette(data[10])
    kept, control = data[:at], b""
    blocks = 0
    while at < len(data):
        start, kind = at, data[at]
        if kind == 0x2C:
            at += 11 + (_palette(data[at + 9]) if at + 9 < len(data) else 0)
        elif kind == 0x21:
            at += 2
        elif kind == 0x3B:
            break
        else:
            at += 1
            continue
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > MAX_CHUNKS:
                raise _too_many("GIF")
        at += 1
        if kind == 0x2C:
            return kept + control + data[start:at] + b";"
        if data[start + 1 : start + 2] == b"\xf9":
            control = data[start:at]
    return data


def _is_critical(kind: bytes) -> bool:
    return bool(kind) and not kind[0] & 0x20


def _palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _too_many(name: str) -> RequestError:
    return RequestError(
        413,
        "too_many_chunks",
        f"the {name} is cut into more than {MAX_CHUNKS} pieces: save it again",
    )
