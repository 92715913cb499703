"""A user's `torch.utils.data.Dataset` or DataLoader, read once, in order, batch by batch."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from handlers.images import ImageSpec, fit_pixels, flatten, in_order
from optimize.data import arrays, store
from optimize.data.dataset import Encoded, Split
from optimize.data.examples import Wanted
from optimize.data.image_input import pair
from optimize.data.pictures import BATCH, PictureFile
from optimize.errors import DataError
from optimize.models.sources.user_file import described
from optimize.utils.bars import bar

TAKEN = (
    "each item is (image, label), or a mapping with image and label: the image a PIL picture, "
    "uint8 [C, H, W], floats 0..1 [C, H, W], or a NumPy array [H, W, C]; the label a whole number"
)


@dataclass(frozen=True)
class Read:
    """What a data set held.

    Attributes:
        split: its images and labels.
        spec: how its PIL pictures were prepared; None if it gave arrays.
        classes: names of its classes, if it knows them.
        files: its pictures' files in order, if it knows them (torchvision's `samples`).
        notes: remarks.
    """

    split: Split
    spec: ImageSpec | None
    classes: list[str] = field(default_factory=list)
    files: Sequence[Encoded] = ()
    notes: list[str] = field(default_factory=list)


class _Reader:
    """Items to uint8 images of one shape; remembers what it saw."""

    def __init__(self, where: str, wanted: Wanted) -> None:
        self.where, self.wanted = where, wanted
        self.spec: ImageSpec | None = None
        self.shape: tuple[int, ...] | None = None
        self.floats = False

    def item(self, item: Any) -> tuple[Tensor, int]:
        if isinstance(item, dict):
            image = next((item[k] for k in ("image", "pixel_values", "img") if k in item), None)
            label = next((item[k] for k in ("label", "labels", "target") if k in item), None)
        elif isinstance(item, tuple | list) and len(item) >= 2:
            image, label = item[0], item[1]
        else:
            image = label = None
        if image is None or label is None:
            raise DataError(f"{self.where}: an item is {type(item).__name__}; {TAKEN}")
        return self.image(image), self.label(label)

    def label(self, value: Any) -> int:
        if isinstance(value, Tensor | np.ndarray | np.generic) and np.asarray(value).size == 1:
            value = np.asarray(value).item()
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(f"{self.where}: a label is {value!r}; {TAKEN}")
        return value

    def image(self, value: Any) -> Tensor:
        if isinstance(value, Image.Image):
            image = self._picture(value)
        elif isinstance(value, Tensor | np.ndarray) and value.ndim in (2, 3):
            tensor = torch.as_tensor(value)
            tensor = tensor.unsqueeze(0) if tensor.ndim == 2 else tensor
            layout = "auto" if isinstance(value, np.ndarray) else "NCHW"
            self.floats = self.floats or tensor.dtype != torch.uint8
            image = arrays.images(tensor.unsqueeze(0), self.where, layout)[0]
        else:
            kind = f"{type(value).__name__} {list(getattr(value, 'shape', []))}"
            raise DataError(f"{self.where}: an image is {kind}; {TAKEN}")
        self.shape = self.shape or tuple(image.shape)
        if tuple(image.shape) != self.shape:
            raise DataError(
                f"{self.where}: images of {list(self.shape)} and {list(image.shape)}: bring them "
                "to one shape, or give PIL pictures and say `input: {size: ...}` in the recipe"
            )
        return image

    def _picture(self, picture: Image.Image) -> Tensor:
        """A PIL picture, prepared as the handler does."""
        if self.spec is None:
            given = self.wanted.input
            grey = picture.mode in ("1", "L", "I", "I;16")
            many = any(isinstance(v, list) and len(v) == 3 for v in (given.mean, given.std))
            channels = given.channels or (1 if grey and not many else 3)
            size = (picture.height, picture.width) if given.size is None else pair(given.size)
            self.spec = self.wanted.spec(size, channels)
        pixels = flatten(picture, self.spec.channels)
        if self.wanted.input.size is None and pixels.shape[:2] != (
            self.spec.height,
            self.spec.width,
        ):
            return in_order(torch.from_numpy(pixels).permute(2, 0, 1), self.spec)  # refused above
        return fit_pixels(pixels, self.spec)


def length(found: Any) -> int:
    """Samples of a data set or loader; 0 if it does not say."""
    source = found.dataset if isinstance(found, DataLoader) else found
    return len(source) if hasattr(source, "__len__") else 0


def subset(found: Any, index: Tensor) -> Any:
    """A part of a data set or loader."""
    if not isinstance(found, DataLoader):
        return Subset(found, index.tolist())
    return DataLoader(
        Subset(found.dataset, index.tolist()),
        batch_size=found.batch_size,
        num_workers=found.num_workers,
        collate_fn=found.collate_fn,
    )


def read(found: Any, where: str, wanted: Wanted, seed: int) -> Read:
    """All samples of a map-style data set or loader; the samples of a loader in their order.

    Args:
        found: a `Dataset`, or a `DataLoader`, whose workers and `collate_fn` are used.
        where: for messages.
        wanted: how PIL pictures are prepared.
        seed: of random transforms.

    Raises:
        DataError: it has no length, an item is something else, or its own code fails.
    """
    loader = found if isinstance(found, DataLoader) else None
    source: Any = found.dataset if loader is not None else found
    if isinstance(source, IterableDataset) or not hasattr(source, "__len__"):
        raise DataError(
            f"{where}: an iterable data set has no length and no fixed order: give a map-style "
            "Dataset, with __len__ and __getitem__"
        )
    if not len(source):
        raise DataError(f"{where} is empty")
    reader, targets = _Reader(where, wanted), []
    batches = _items(reader, source, loader, seed)
    first, labels = _next(batches, where)
    targets += labels

    def images() -> Iterator[Tensor]:
        yield first
        while (following := _next(batches, where, None)) is not None:
            targets.extend(following[1])
            yield following[0]

    stacked = store.collect(images(), len(source), tuple(first.shape[1:]))
    files = _files(source)
    return Read(
        Split(stacked, torch.tensor(targets)),
        reader.spec,
        [str(name) for name in _attribute(source, "classes") or []],
        [PictureFile(path) for path in files] if len(files) == len(stacked) else (),
        [arrays.FLOATS] if reader.floats else [],
    )


def _items(
    reader: _Reader, source: Any, loader: Any, seed: int
) -> Iterator[tuple[Tensor, list[int]]]:
    """Batches of images and labels, the same for the same seed."""
    state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        try:
            if loader is None or loader.batch_size is None:
                for start in bar(range(0, len(source), BATCH), title="data", unit="batch"):
                    chosen = range(start, min(start + BATCH, len(source)))
                    pairs = [reader.item(source[i]) for i in chosen]
                    yield torch.stack([image for image, _ in pairs]), [label for _, label in pairs]
                return
            ordered: Any = DataLoader(
                source,
                batch_size=loader.batch_size,
                num_workers=loader.num_workers,
                collate_fn=loader.collate_fn,
                generator=torch.Generator().manual_seed(seed),
            )
            for batch in bar(ordered, title="data", unit="batch"):
                pairs = [reader.item(item) for item in _unbatched(batch, reader.where)]
                yield torch.stack([image for image, _ in pairs]), [label for _, label in pairs]
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])


def _unbatched(batch: Any, where: str) -> list[Any]:
    """The items of a collated batch."""
    if isinstance(batch, dict):
        keys = list(batch)
        return [
            dict(zip(keys, values, strict=True)) for values in zip(*batch.values(), strict=True)
        ]
    if isinstance(batch, tuple | list) and len(batch) >= 2 and len(batch[0]) == len(batch[1]):
        return list(zip(batch[0], batch[1], strict=True))
    raise DataError(f"{where}: a batch is {type(batch).__name__}; batches are (images, labels)")


def _next(batches: Iterator[Any], where: str, *default: Any) -> Any:
    try:
        return next(batches, *default)
    except DataError:
        raise
    except Exception as error:  # the user's code can raise anything
        raise DataError(f"{where} fails when its items are read: {described(error)}") from error


def _attribute(source: Any, name: str) -> Any:
    """An attribute of a data set, or of the one that a Subset is of."""
    while isinstance(source, Subset):
        source = source.dataset
    return getattr(source, name, None)


def _files(source: Any) -> list[Path]:
    """The pictures' files in order, where the data set lists them as torchvision's folders do."""
    if isinstance(source, Subset):
        whole = _files(source.dataset)
        return [whole[i] for i in source.indices] if whole else []
    listed = getattr(source, "samples", None) or getattr(source, "imgs", None)
    if not isinstance(listed, list) or len(listed) != len(source):
        return []
    paths = [item[0] if isinstance(item, tuple | list) and item else item for item in listed]
    if not all(isinstance(path, str | Path) for path in paths):
        return []
    return [Path(path) for path in paths]
