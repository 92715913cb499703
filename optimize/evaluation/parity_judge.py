"""The judge without targets: how near answers are to the original's."""

import torch
from torch import Tensor

from optimize.errors import DataError
from optimize.evaluation.judge import NEAR, Judge, Measure, Pairs
from optimize.evaluation.metrics import Metric

COSINE = Metric(
    "cosine", "Cosine with the original's answer", unit="", change_unit="", scale=1.0, digits=5,
    least=-1.0001, most=1.0001, counted=False,
)  # fmt: skip
MAX_ERROR = Metric(
    "max_error", "Largest error against the original", unit="", change_unit="",
    higher_is_better=False, scale=1.0, digits=5, most=None, counted=False,
)  # fmt: skip

_SAME = 0.99  # the cosine of answers that agree


class Parity(Judge):
    """No targets: how near answers are to the original's, by their cosine, row by row and the mean
    of all outputs, and by the largest error over an output's root mean square.

    Of an output with one number a row the cosine is that of all rows together.
    """

    gates = (COSINE, MAX_ERROR)

    def measure(self, pairs: Pairs) -> Measure:
        sides, errors = [], []
        for answer, reference in pairs:
            found, wanted = (t.double().reshape(len(t), -1) for t in (answer, reference))
            if found.shape != wanted.shape:
                raise DataError(
                    f"an output is {list(answer.shape)}, the original's {list(reference.shape)}"
                )
            sides.append((found, wanted))
            usual = wanted.square().mean().sqrt().clamp(min=1e-12)
            errors.append((found - wanted).abs().amax(1) / usual)
        error = torch.stack(errors).amax(0)

        def values(index: Tensor) -> dict[str, float]:
            alike = [float(cosines(a[index], b[index]).mean()) for a, b in sides]
            return {
                COSINE.name: sum(alike) / len(alike),
                MAX_ERROR.name: float(error[index].max()),
            }

        return values

    def agreement(self, pairs: Pairs) -> float:
        shares = []
        for answer, reference in pairs:
            found, wanted = (t.double().reshape(len(t), -1) for t in (answer, reference))
            if found.shape[1] == 1:
                limit = NEAR * wanted.std(correction=0) + 1e-5 * wanted.abs().max()
                shares.append(((found - wanted).abs() <= limit)[:, 0])
            else:
                shares.append(cosines(found, wanted) >= _SAME)
        return float(torch.stack(shares).all(0).double().mean())


def cosines(found: Tensor, wanted: Tensor) -> Tensor:
    """The cosine of every row of two `[N, values]`; of all rows together where a row has one value.
    Rows of zeros are alike."""
    if found.shape[1] == 1:
        found, wanted = found.T, wanted.T
    norms = found.norm(dim=1) * wanted.norm(dim=1)
    alike = (found * wanted).sum(1) / norms.clamp(min=1e-300)
    return torch.where(norms > 0, alike, (found == wanted).all(1).double())
