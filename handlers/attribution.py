"""Attributions by perturbation, for models without gradients: captum's methods, deterministic.

`ablation` is captum's FeatureAblation: what the score loses when a feature is taken out.
`shap` is its KernelShap (Lundberg and Lee 2017): a weighted regression over random coalitions
of features, whose attributions add up to the score minus that of the empty input.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Masks bool [evaluations, features], True where the feature stays, to scores [evaluations].
Score = Callable[[NDArray[np.bool_]], Array]


def groups(features: int, limit: int) -> list[tuple[int, int]]:
    """Runs of neighbouring features, at most `limit` of them, as (start, stop)."""
    count = min(features, limit)
    cuts = [features * i // count for i in range(count + 1)]
    return list(pairwise(cuts))


def ablation(score: Score, features: int) -> tuple[Array, int]:
    """What the score loses without each feature, `[features]`, and the evaluations it took."""
    masks = ~np.eye(features + 1, features, -1, dtype=bool)
    scores = score(masks)
    return scores[0] - scores[1:], len(masks)


def shap(score: Score, features: int, evaluations: int, seed: int = 0) -> tuple[Array, int]:
    """Shapley values by weighted regression, `[features]`, and the evaluations it took.

    Coalitions come in pairs with their complements; their sizes are drawn by the Shapley
    kernel, so that the regression itself needs no weights. A single feature gets the whole
    difference.
    """
    whole, empty = score(np.array([[True] * features, [False] * features]))
    if features == 1:
        return np.array([whole - empty]), 2
    random = np.random.default_rng(seed)
    sizes = np.arange(1, features)
    kernel = 1.0 / (sizes * (features - sizes))
    drawn = random.choice(sizes, size=max(features, evaluations // 2), p=kernel / kernel.sum())
    masks = np.zeros((2 * len(drawn), features), dtype=bool)
    for row, size in enumerate(drawn):
        masks[2 * row, random.permutation(features)[:size]] = True
        masks[2 * row + 1] = ~masks[2 * row]
    # The sum is known, so the last feature's value follows from the others'.
    last = masks[:, -1:].astype(np.float64)
    left = masks[:, :-1] - last
    right = score(masks) - empty - last[:, 0] * (whole - empty)
    values = np.linalg.solve(left.T @ left + 1e-6 * np.eye(features - 1), left.T @ right)
    return np.append(values, whole - empty - values.sum()), len(masks) + 2
