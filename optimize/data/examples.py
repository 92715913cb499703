"""Labelled pictures to a data set: split once, decoded as the server decodes, and looked over."""

import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from handlers.images import DEFAULT_MAX_BYTES, DEFAULT_MAX_PIXELS, ImageSpec
from optimize.data.dataset import Dataset, Encoded, Sample, Split
from optimize.data.image_input import ImageInput, card_input, pair
from optimize.data.pictures import Decoded, decode, probe
from optimize.data.tables import SPLITS
from optimize.errors import DataError

SAMPLES = 8
# A class this many times as frequent as another is said in a note.
_IMBALANCE = 10


@dataclass(frozen=True)
class Example:
    """A picture with its label; `name` is its place in the data, `split` one of `SPLITS` or ""."""

    name: str
    picture: Encoded
    label: str
    split: str = ""


@dataclass(frozen=True)
class Wanted:
    """What a recipe says of pictures: how they are prepared, and the server's limits."""

    input: ImageInput = field(default_factory=ImageInput)
    max_pixels: int = DEFAULT_MAX_PIXELS
    max_bytes: int = DEFAULT_MAX_BYTES

    def spec(self, size: tuple[int, int], channels: int) -> ImageSpec:
        """The handler's form, for pictures of `size`."""
        limits = {"max_pixels": self.max_pixels, "max_bytes": self.max_bytes}
        return self.input.spec(size, channels, **limits)


@dataclass(frozen=True)
class Division:
    """How to split and what to refuse.

    Attributes:
        test, validation: shares of the pictures, where the data are not split.
        max_unreadable: largest share of pictures that cannot be decoded.
        seed: of the split.
    """

    test: float = 0.2
    validation: float = 0.1
    max_unreadable: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.test < 1 and 0 <= self.validation < 1 - self.test):
            raise DataError("test and validation are shares: 0.1 is a tenth, and some must be left")


def dataset(
    examples: list[Example],
    wanted: Wanted,
    division: Division,
    *,
    name: str,
    source: str,
    labels: list[str] | None = None,
    order: Callable[[str], Any] = str,
) -> Dataset:
    """Decode and split labelled pictures.

    Args:
        examples: all pictures.
        wanted: how they are prepared.
        division: how they are split.
        name, source: of the data set.
        labels: the classes in order; by default those that occur, sorted by `order`.
        order: sort key of labels.

    Raises:
        DataError: fewer than two classes, pictures of several sizes and no size to bring them
            to, an empty split, or too many pictures that cannot be decoded.
    """
    found = sorted({example.label for example in examples}, key=order)
    labels = labels or found
    place = {label: position for position, label in enumerate(labels)}
    unknown = next((example for example in examples if example.label not in place), None)
    if unknown is not None:
        raise DataError(
            f"{unknown.name}: label {unknown.label!r} is not among {', '.join(labels[:20])}"
        )
    if len(found) < 2:
        raise DataError(
            f"{source}: all {len(examples)} pictures are of {', '.join(map(repr, found))}; a "
            "classifier needs two classes"
        )
    spec, said = _spec(examples, wanted, source)
    parts, notes = _divide(examples, division)
    notes += said
    notes.insert(0, f"classes in order: {_some(labels, 10)}")
    prepared = dataclasses.replace(spec, max_pixels=0, max_bytes=0)
    digest = hashlib.sha256(f"{prepared}{labels}".encode())
    splits: dict[str, Split | None] = {}
    kept: dict[str, list[Example]] = {}
    digests: dict[str, list[str]] = {}
    failures: list[str] = []
    for split in SPLITS:
        part = parts[split]
        decoded = decode([e.picture for e in part], spec, f"pictures: {split}")
        failures += [f"{part[position].name} ({reason})" for position, reason in decoded.failures]
        kept[split] = [part[position] for position in decoded.index]
        digests[split] = decoded.digests
        splits[split] = _split(decoded, [place[e.label] for e in kept[split]])
        for example, content in zip(kept[split], decoded.digests, strict=True):
            digest.update(f"{split}\0{example.name}\0{content}\0{example.label}\n".encode())
    _refuse(failures, len(examples), division.max_unreadable)
    if failures:
        notes.append(
            f"{len(failures)} of {len(examples)} pictures cannot be decoded and are left out: "
            f"{_some(failures, 3)}"
        )
    if splits["test"] is None:
        raise DataError(
            f"{source}: {len(examples)} pictures leave the test split empty: bring more"
        )
    return Dataset(
        name=name,
        source=source,
        labels=labels,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        samples=_samples(kept["test"]),
        card_input=card_input(spec, wanted.input),
        notes=notes + _warnings(kept, digests, labels),
        files=[example.picture for example in kept["test"]],
        digest=digest.hexdigest(),
    )


def _spec(examples: list[Example], wanted: Wanted, source: str) -> tuple[ImageSpec, list[str]]:
    """Size and channels from the recipe or the model, else those that all pictures have; and a
    remark where nobody said how other shapes come to that size."""
    given = wanted.input
    common, channels = probe([example.picture for example in examples])
    if given.size is None and common is None:
        raise DataError(
            f"{source}: the pictures have several sizes; say in the recipe what the model takes, "
            "as in `input: {size: 224, resize: crop}`"
        )
    if given.channels is not None:
        channels = given.channels
    elif any(isinstance(v, list) and len(v) == 3 for v in (given.mean, given.std)):
        channels = 3
    size = common if given.size is None else pair(given.size)
    assert size is not None
    said = []
    if given.resize is None and (common is None or common[0] * size[1] != common[1] * size[0]):
        said.append(
            "pictures of another shape keep their aspect and are cropped to the centre: if the "
            "model was trained on squashed or padded ones, say `input: {resize: squash}` or "
            "`letterbox`"
        )
    return wanted.spec(size, channels), said


def _divide(
    examples: list[Example], division: Division
) -> tuple[dict[str, list[Example]], list[str]]:
    """The examples of each split, and remarks: the data's own splits, or drawn class by class."""
    examples = sorted(examples, key=lambda example: example.name)
    random = np.random.default_rng(division.seed)
    parts = {split: [e for e in examples if e.split == split] for split in SPLITS}
    notes = []
    if parts["validation"] and not parts["test"]:
        parts["test"], parts["validation"] = parts["validation"], []
        notes.append("there is no test split: the validation split is used as the test split")
    loose = [e for e in examples if not e.split]
    if not parts["test"]:
        loose, parts["train"] = loose + parts["train"], []
        parts["test"], loose = _draw(loose, division.test, random)
        notes.append(f"test split drawn with seed {division.seed}: {division.test:g} of each class")
    parts["train"] += loose
    if not parts["validation"] and division.validation and parts["train"]:
        parts["validation"], parts["train"] = _draw(parts["train"], division.validation, random)
    return {
        split: [part[i] for i in random.permutation(len(part)).tolist()]
        for split, part in parts.items()
    }, notes


def _draw(
    examples: list[Example], share: float, random: np.random.Generator
) -> tuple[list[Example], list[Example]]:
    """A share of every class, and the rest; one of three is drawn at least."""
    drawn: list[Example] = []
    rest: list[Example] = []
    for label in sorted({example.label for example in examples}):
        of_class = [example for example in examples if example.label == label]
        order = random.permutation(len(of_class)).tolist()
        count = max(round(share * len(order)), int(len(order) >= 3))
        drawn += [of_class[i] for i in order[:count]]
        rest += [of_class[i] for i in order[count:]]
    return drawn, rest


def _split(decoded: Decoded, targets: list[int]) -> Split | None:
    return Split(decoded.images, torch.tensor(targets)) if targets else None


def _refuse(failures: list[str], count: int, share: float) -> None:
    if len(failures) > share * count:
        raise DataError(
            f"{len(failures)} of {count} pictures cannot be decoded, more than max_unreadable "
            f"({share:g}) allows: {_some(failures, 3)}"
        )


def _samples(examples: list[Example]) -> list[Sample]:
    """A few test pictures as they are, for the check after deployment."""
    samples = []
    for number, example in enumerate(examples[:SAMPLES]):
        content = example.picture.read()
        suffix = {b"\xff\xd8": "jpg", b"\x89P": "png", b"GI": "gif"}.get(content[:2], "webp")
        label = re.sub(r"[^\w.-]+", "_", example.label)[:40]
        samples.append(Sample(f"{number}_{label}.{suffix}", content, example.label))
    return samples


def _warnings(
    kept: dict[str, list[Example]], digests: dict[str, list[str]], labels: list[str]
) -> list[str]:
    """What to know of the pictures: duplicates across splits, rare and absent classes."""
    notes = []
    learned = {
        content: example
        for split in ("validation", "train")
        for content, example in zip(digests[split], kept[split], strict=True)
    }
    twice = [
        (example, learned[content])
        for content, example in zip(digests["test"], kept["test"], strict=True)
        if content in learned
    ]
    if twice:
        test, train = twice[0]
        notes.append(
            f"warning: {len(twice)} of {len(kept['test'])} test pictures are among the training or "
            f"validation pictures too ({test.name} is {train.name}): accuracy is flattered"
        )
    present = {split: [example.label for example in part] for split, part in kept.items()}
    return notes + class_warnings(present, labels)


def class_warnings(present: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[str]:
    """Classes that a split lacks, and rare ones, from the label of each picture by split."""
    notes = []
    for split, part in present.items():
        counts = Counter(part)
        absent = [label for label in labels if label not in counts]
        if part and absent and len(counts) < len(labels):
            notes.append(f"warning: the {split} split has no picture of {_some(absent, 3)}")
        if (
            split == "train"
            and counts
            and max(counts.values()) >= _IMBALANCE * min(counts.values())
        ):
            (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
            notes.append(
                f"warning: classes are imbalanced: {many} training pictures of {most}, {few} of "
                f"{least}; look at the accuracy of each class"
            )
    return notes


def _some(words: Sequence[str], most: int) -> str:
    """The first words, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
