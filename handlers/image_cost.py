"""What an image file costs to decode, by its header, and whether its bytes have paid for that."""

from handlers.errors import RequestError
from handlers.image_header import ImageHeader

# The pixels a file may hold whatever its length, and how many more for each of its bytes. Flat
# drawings have 100 to 350 a byte. A pixel takes 4 bytes of memory in a GIF's decoder, 7 in a PNG's
# and 19 in a WebP's: what a kilobyte can claim stays under 10 MB.
FREE_PIXELS = 262_144
PIXELS_A_BYTE = {"JPEG": 512, "PNG": 512, "GIF": 1024, "WEBP": 128}
# Measured: a pixel of a JPEG of one scan takes a quarter of the time of a PNG's or a WebP's. Of
# several scans each is a pass over the whole picture, and all of it is held.
_ONE_SCAN, _SCANS_OF_A_PASS = 0.25, 24


def check_claim(header: ImageHeader, length: int) -> None:
    """Raise RequestError 413 where a file of `length` bytes claims too many pixels."""
    per_byte = PIXELS_A_BYTE[header.format]
    if header.width * header.height > FREE_PIXELS + per_byte * length:
        raise RequestError(
            413,
            "too_many_pixels",
            f"{header.width}x{header.height} pixels in {length} bytes: a {header.format} may hold "
            f"{FREE_PIXELS}, and {per_byte} more for each byte",
        )


def decoded_pixels(header: ImageHeader, divisor: int) -> int:
    """How many pixels the decoder gives when both sides are divided by `divisor`."""
    return -(-header.width // divisor) * -(-header.height // divisor)


def pixel_cost(header: ImageHeader, divisor: int) -> float:
    """The time to decode, counted in pixels of a PNG."""
    whole = header.width * header.height
    if header.format != "JPEG":
        return whole
    passes = 1 + header.scans / _SCANS_OF_A_PASS
    if header.scans <= 1 and not header.progressive:
        passes = _ONE_SCAN
    return whole * passes + decoded_pixels(header, divisor)
