"""Long texts in windows, one rule for training, evaluation and serving.

A text of more tokens than a window takes is cut into the fewest windows that hold it, all of
(nearly) the same length, without overlap and without leaving anything out. The text's logits
are the mean of its windows' logits, its embedding the mean of theirs, scaled to length 1.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def spans(tokens: int, body: int) -> list[tuple[int, int]]:
    """Start and stop of each window over `tokens` tokens, at most `body` of them in each."""
    count = max(1, -(-tokens // body))
    cuts = [tokens * i // count for i in range(count + 1)]
    return list(pairwise(cuts))


def windows(ids: Sequence[int], first: int, last: int, max_length: int) -> list[list[int]]:
    """Token ids without special ones to windows `[first, ..., last]` of at most `max_length`."""
    return [[first, *ids[a:b], last] for a, b in spans(len(ids), max_length - 2)]


def pool(logits: Tensor, owner: Tensor, texts: int) -> Tensor:
    """Mean logits of each text.

    Args:
        logits: `[windows, classes]`.
        owner: int64 `[windows]`, the text each belongs to, in 0..texts - 1, each at least once.
        texts: how many.

    Returns:
        float32 `[texts, classes]`.
    """
    total = torch.zeros(texts, logits.shape[1]).index_add_(0, owner, logits.float())
    counts = torch.bincount(owner, minlength=texts)
    return total / counts[:, None]


def mean_direction(embeddings: Tensor, owner: Tensor, texts: int) -> Tensor:
    """Embedding of each text: the mean of its windows', scaled to length 1.

    Args:
        embeddings: `[windows, width]`, each of length 1.
        owner, texts: as for `pool`.

    Returns:
        float32 `[texts, width]`.
    """
    return torch.nn.functional.normalize(pool(embeddings, owner, texts), dim=1)
