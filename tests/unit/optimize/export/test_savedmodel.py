"""TensorFlow SavedModel: several outputs stay in their order."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from optimize import export
from optimize.export import check
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Subject

NAMES = ("tenor", "alto", "violin", "bass", "oboe", "cello", "flute")


class Scaled(nn.Module):
    """As many outputs as there are names, each another multiple of its input."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(x * (number + 1) for number in range(len(NAMES)))


def test_outputs_keep_their_order(
    needs: Callable[[str], None], converted: Callable[..., Path]
) -> None:
    """The map of a loaded signature's outputs has no order, and differs between processes."""
    needs("savedmodel")
    assert list(NAMES) != sorted(NAMES)
    subject = Subject(
        "model",
        Scaled().eval(),
        ("x",),
        NAMES,
        [(torch.rand(n, 3) + 1,) for n in (2, 1, 3)],
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        tuple({0: "batch"} for _ in NAMES),
    )
    path = converted("savedmodel", subject)
    for _ in range(2):  # in two fresh processes
        with Runner("savedmodel", path) as run:
            check.parity(subject, run, export.FLOAT32)
