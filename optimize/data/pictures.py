"""Pictures in files or tables, decoded in batches as the handler decodes a request's."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from handlers import cores
from handlers.errors import RequestError
from handlers.image_header import read_header
from handlers.images import ImageSpec, load_image
from optimize.data import store
from optimize.data.dataset import Encoded
from optimize.utils.bars import bar

BATCH = 64
# Fewer pictures are decoded sooner than processes start.
_FEWEST_FOR_WORKERS = 512
_PROBED = 64
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class PictureFile:
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Decoded:
    """What decoding gave.

    Attributes:
        images: uint8 `[N, C, H, W]`, of those that could be decoded.
        index: their positions among the pictures.
        digests: SHA-256 of their files.
        failures: position and reason of the others.
    """

    images: Tensor
    index: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)


class _Batches:
    """A map-style data set of whole batches, so that a worker decodes one and sends it once."""

    def __init__(self, pictures: Sequence[Encoded], spec: ImageSpec) -> None:
        self.pictures, self.spec = pictures, spec

    def __len__(self) -> int:
        return -(-len(self.pictures) // BATCH)

    def __getitem__(self, number: int) -> tuple[Tensor, list[tuple[int, str, str]]]:
        """Images of a batch, and (position, digest, reason) of each of its pictures."""
        start = number * BATCH
        images, said = [], []
        for position, picture in enumerate(self.pictures[start : start + BATCH], start):
            image, digest, reason = _decode(picture, self.spec)
            said.append((position, digest, reason))
            if image is not None:
                images.append(image)
        spec = self.spec
        shape = (spec.channels, spec.height, spec.width)
        return (
            torch.stack(images) if images else torch.empty((0, *shape), dtype=torch.uint8),
            said,
        )


def _decode(picture: Encoded, spec: ImageSpec) -> tuple[Tensor | None, str, str]:
    try:
        data = picture.read()
    except OSError as error:
        return None, "", error.strerror or str(error)
    digest = hashlib.sha256(data).hexdigest()
    try:
        return load_image(data, spec), digest, ""
    except RequestError as error:
        return None, digest, error.message


def decode(pictures: Sequence[Encoded], spec: ImageSpec, title: str = "pictures") -> Decoded:
    """Decode pictures as the server will, in worker processes where there are many.

    Raises:
        StorageError: they need a file, and there is no room for it.
    """
    found = Decoded(torch.empty(0))

    def batches() -> Iterator[Tensor]:
        source: Any = _Batches(pictures, spec)
        workers = 0
        if len(pictures) >= _FEWEST_FOR_WORKERS:
            workers = min(4, cores.usable())
        loader: Any = DataLoader(source, batch_size=None, num_workers=workers)
        for images, said in bar(loader, title=title, unit="batch"):
            for position, digest, reason in said:
                if reason:
                    found.failures.append((position, reason))
                else:
                    found.index.append(position)
                    found.digests.append(digest)
            yield images

    shape = (spec.channels, spec.height, spec.width)
    images = store.collect(batches(), len(pictures), shape)
    return Decoded(images, found.index, found.digests, found.failures)


def probe(pictures: Sequence[Encoded]) -> tuple[tuple[int, int] | None, int]:
    """The (height, width) that the first pictures have in common, or None; and 1 if all of them
    are grey, else 3."""
    sizes, grey = set(), True
    for picture in pictures[:_PROBED]:
        try:
            data = picture.read()
            header = read_header(data)
            with Image.open(io.BytesIO(data)) as image:
                grey = grey and image.mode in ("1", "L", "I", "I;16")
        except (OSError, RequestError, ValueError, SyntaxError):
            continue  # it is counted when it is decoded
        sizes.add((header.height, header.width))
    channels = 1 if sizes and grey else 3
    return (sizes.pop() if len(sizes) == 1 else None), channels
