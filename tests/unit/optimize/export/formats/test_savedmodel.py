"""TensorFlow SavedModel: several outputs stay in their order; weights of convolutions."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from optimize.export import check
from optimize.export.formats.interface import FLOAT32
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Exportable, Subject

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
            check.parity(subject, run, FLOAT32)


def test_convolutions_have_constants_at_any_batch(
    needs: Callable[[str], None], pictures: Exportable, converted: Callable[..., Path]
) -> None:
    """Their weights are in the graph once, not in variables beside it as well."""
    needs("savedmodel")
    subject = pictures.subjects[0]
    path = converted("savedmodel", subject)
    with Runner("savedmodel", path) as run:
        assert len(check.parity(subject, run, FLOAT32)) == len(subject.pieces)
    weights = sum(p.numel() for p in subject.module.parameters())
    assert (path / "variables" / "variables.data-00000-of-00001").stat().st_size < weights
    assert 4 * weights < (path / "saved_model.pb").stat().st_size < 6 * weights
