"""How a model wants its pixels: what its files say, else the way in which it answers best.

A model takes a size, an order of colours and a range of values, and a checkpoint says none of
them. A hundred of the data's pictures are put to it in each usual way.
"""

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from optimize.data import examples, preprocessing
from optimize.data.dataset import Dataset
from optimize.data.examples import Division, Example, Wanted
from optimize.data.image_input import ImageInput
from optimize.data.pictures import probe
from optimize.draft.data import Seen
from optimize.draft.model import widest
from optimize.errors import DataError, ModelError
from optimize.evaluation import chance
from optimize.evaluation.accuracy import wilson
from optimize.recipe.schema import Named
from optimize.tasks import image
from optimize.utils.wording import few

MOST = 128  # pictures
_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 384)
_VALUES: tuple[dict[str, Any], ...] = (
    {},
    {"value_range": "0..1"},
    {"value_range": "0..1", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    {"value_range": "-1..1"},
)


@dataclass(frozen=True)
class Found:
    """What a recipe's `input` says.

    Attributes:
        input: its options.
        said: why, in a sentence.
        right: share of the pictures that the model then answers right; None if not tried.
        widest: channels of the model's widest layer; 0 if not tried.
        warning: a sentence if the model answers no better than by chance.
    """

    input: dict[str, Any]
    said: str
    right: float | None = None
    widest: int = 0
    warning: str | None = None


def find(seen: Seen, model: Named, checkpoint: str | None, folder: Path) -> Found:
    """The input that a model wants.

    Args:
        seen: pictures.
        model, checkpoint, folder: as the recipe says them.

    Raises:
        ModelError: it takes the pictures in none of the usual ways; says what the first one gave.
    """
    preset, where = preprocessing.read(model, folder)
    if not seen.examples and seen.loaded is None:
        return Found({}, "the pictures were not looked at")
    refusal: ModelError | None = None
    for options, data in _prepared(seen, preset):
        tried: list[Found] = []
        for values in _VALUES if not _fixed(preset) else _VALUES[:1]:
            if isinstance(values.get("mean"), list) and data.test.inputs.shape[1] != 3:
                continue
            normal = ImageInput(**values).normalization()
            try:
                built = image.build_model(
                    model, dataclasses.replace(data, normalization=normal), folder, checkpoint
                )
                right = _right(built, data)
            except ModelError as error:
                refusal = refusal or error
                continue
            tried.append(Found({**options, **values}, where, right, widest(built)))
        if tried:
            best = max(tried, key=lambda found: found.right or 0.0)
            best = dataclasses.replace(best, said=_said(best, tried, data, where))
            return dataclasses.replace(best, warning=_guessed(best, data))
    assert refusal is not None
    raise refusal


def _fixed(preset: ImageInput) -> bool:
    """Whether the model's own files say what happens to values."""
    return preset.mean is not None or preset.value_range is not None


def _said(best: Found, tried: list[Found], data: Dataset, where: str) -> str:
    count = sum(data.count(split) for split in ("train", "validation", "test"))
    share = f"{best.right or 0:.0%} of {count} pictures are answered right this way"
    if where:
        return f"{where} says the rest; {share}"
    others = sorted({f"{found.right or 0:.0%}" for found in tried if found is not best})
    return share + (f", {' or '.join(others)} prepared otherwise" if others else "")


def _guessed(best: Found, data: Dataset) -> str | None:
    """That the best way is no better than chance, which has few causes, and what to do."""
    parts = (data.train, data.validation, data.test)
    targets = torch.cat([part.targets for part in parts if part is not None])
    usual = chance.majority(targets)
    if best.right is None or wilson(round(best.right * len(targets)), len(targets))[0] > usual:
        return None
    return (
        f"that is no better than chance ({usual:.0%}): if the model is trained, it may number its "
        f"classes in another order than {few(list(data.labels), 8)} (the data's option "
        "`labels` says the model's), or want pixels in another way (input:)"
    )


def _prepared(seen: Seen, preset: ImageInput) -> Iterator[tuple[dict[str, Any], Dataset]]:
    """A few of the pictures in each usual size and colour, with the options that bring them to
    it."""
    if seen.loaded is not None:
        yield {}, seen.loaded
        return
    some = _some(seen.examples)
    common, channels = probe([example.picture for example in some])
    sizes: list[int | list[int] | None] = [None] if common or preset.size else []
    sizes += [size for size in _SIZES if common != (size, size)]
    orders = [None, "grey" if channels == 3 else "RGB"]
    for size in sizes:
        for order in orders:
            given: dict[str, Any] = {"size": size, "color_order": order}
            options = {key: value for key, value in given.items() if value is not None}
            wanted = Wanted(input=ImageInput(**options).over(preset))
            try:
                yield (
                    options,
                    examples.dataset(
                        some,
                        wanted,
                        Division(),
                        name="some",
                        source="some",
                        labels=list(seen.labels),
                    ),
                )
            except DataError as error:
                raise DataError(f"the pictures cannot be read: {error}") from error


def _some(found: tuple[Example, ...]) -> list[Example]:
    """At most MOST pictures, as many of each class, five of them where there are."""
    labels = sorted({example.label for example in found})
    each = max(5, MOST // len(labels))
    chosen: list[Example] = []
    for label in labels:
        of_class = [dataclasses.replace(e, split="") for e in found if e.label == label]
        chosen += random.Random(label).sample(of_class, min(each, len(of_class)))
    return chosen


def _right(model: nn.Module, data: Dataset) -> float:
    """Share of some pictures that the model answers right."""
    parts = [part[:MOST] for part in (data.train, data.validation, data.test) if part is not None]
    inputs = torch.cat([part.inputs for part in parts])
    targets = torch.cat([part.targets for part in parts])
    with torch.no_grad():
        answers: list[Tensor] = [model.eval()(batch).argmax(1) for batch in inputs.split(16)]
    return float((torch.cat(answers) == targets).double().mean())
