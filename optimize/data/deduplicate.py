"""Near duplicates by MinHash over word shingles (Broder 1997) with LSH banding."""

import re
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

SHINGLE = 3
BANDS, ROWS = 16, 4
SIMILAR = 0.5
_PRIME = (1 << 61) - 1


def normalise(text: str) -> str:
    """Lower-case words and digits only, without markup, punctuation and extra spaces."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"<[^>]*>", " ", text.lower())).strip()


def _signature(words: list[int], factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """MinHash signature `[BANDS * ROWS]`: the least hash of the shingles under each permutation."""
    ids = np.array(words, dtype=np.uint64)
    size = min(SHINGLE, len(ids))
    mixed = np.zeros(len(ids) - size + 1, dtype=np.uint64)
    for offset in range(size):
        mixed = mixed * np.uint64(1_000_003) + ids[offset : offset + len(mixed)]
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    least: NDArray[np.uint64] = (mixed[:, None] * factors[None, :] >> np.uint64(16)).min(0)
    return least


def first_of_each(texts: list[str]) -> list[int]:
    """Positions of the texts without near duplicates: the first of each group.

    Two texts are near duplicates if their normalised forms are equal, or share an estimated half
    of their three-word shingles. Empty texts are never duplicates.
    """
    exact: set[str] = set()
    vocabulary: dict[str, int] = defaultdict(lambda: len(vocabulary) + 1)
    random = np.random.default_rng(0)
    factors = random.integers(1, _PRIME, BANDS * ROWS).astype(np.uint64) | np.uint64(1)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    signatures: dict[int, NDArray[np.uint64]] = {}
    positions = []
    for position, text in enumerate(texts):
        plain = normalise(text)
        if not plain:
            positions.append(position)
            continue
        if plain in exact:
            continue
        exact.add(plain)
        signature = _signature([vocabulary[word] for word in plain.split()], factors)
        keys = [(b, signature[b * ROWS : (b + 1) * ROWS].tobytes()) for b in range(BANDS)]
        candidates = {other for key in keys for other in buckets[key]}
        if any((signatures[other] == signature).mean() >= SIMILAR for other in candidates):
            continue
        signatures[position] = signature
        for key in keys:
            buckets[key].append(position)
        positions.append(position)
    return positions
