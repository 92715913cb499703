"""XNNPACK in int8: a clamp keeps a scale of its own."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from optimize.export import check
from optimize.export.formats.interface import INT8
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Subject


def test_a_clamp_is_not_scaled_as_what_it_clamps(
    needs: Callable[[str], None], converted: Callable[..., Path]
) -> None:
    """A layer answers -250 to 250 and its ReLU6 0 to 6: with one scale that is 3 steps of 255."""
    needs("executorch")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU6(), nn.Conv2d(16, 8, 3), nn.ReLU6())
    with torch.no_grad():
        module[0].weight.mul_(200)
    batches = [(torch.randn(n, 3, 12, 12),) for n in (2, 1, 3, 8)]
    subject = Subject(
        "model",
        module.eval().requires_grad_(False),
        ("pixels",),
        ("features",),
        batches,
        [(torch.randn(8, 3, 12, 12),)],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    assert module[0](batches[3][0]).abs().max() > 240
    path = converted("executorch", subject, "int8")
    with Runner("executorch", path) as run:
        errors = check.parity(subject, run, INT8)
        assert check.quantized(run, INT8)
    assert max(errors.values()) < 0.12  # 0.28 with one scale
