"""The percentile bootstrap (Efron 1979): how far a value would differ on other samples."""

from collections.abc import Callable

import torch
from torch import Tensor

RESAMPLES = 500


def interval(
    value: Callable[[Tensor], float], samples: int, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """The 95% interval of a value of `samples` samples, from resampling them.

    Args:
        value: of some samples, by their positions int64 `[samples]`; finite.
        samples: how many there are.
        resamples: how many times they are drawn with replacement; the seed is fixed.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = [
        value(torch.randint(samples, (samples,), generator=generator)) for _ in range(resamples)
    ]
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.tensor(drawn, dtype=torch.float64).quantile(ends).tolist()
    return low, high
