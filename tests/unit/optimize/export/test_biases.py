"""Core ML's compressed convolutions: biases take back what rounding shifts, palettes' sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from optimize.export import check
from optimize.export.subject import Axis, Subject


@pytest.fixture
def shifted() -> Subject:
    """Weights and inputs of one sign: what is rounded away from a weight does not average out."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(8, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.ReLU6(),
        nn.Conv2d(16, 400, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(400, 10),
    ).eval()
    with torch.no_grad():
        for layer in (module[0], module[5]):
            layer.weight.exponential_(30)
    return Subject(
        "model",
        module.requires_grad_(False),
        ("pixels",),
        ("logits",),
        [(torch.rand(n, 8, 10, 10),) for n in (2, 1, 8)],
        [(torch.rand(8, 8, 10, 10),)],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )


def _error(model: Any, subject: Subject, path: Path) -> float:
    from optimize.export.mil import Program

    model.save(str(path))
    program = Program(path)
    truth = [subject(*piece)[0] for piece in subject.pieces]
    usual = check.usual_norm(truth)
    found = [torch.from_numpy(program(piece[0].numpy())[0]) for piece in subject.pieces]
    return max(check.worst_row(a, b, usual) for a, b in zip(found, truth, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["int8", "palettized"])
def test_a_corrected_file_is_nearer(
    needs: Callable[[str], None], shifted: Subject, precision: str, tmp_path: Path
) -> None:
    needs("coreml")
    from optimize.export import coreml
    from optimize.export.biases import corrected

    with coreml._quiet():
        plain = coreml.convert(shifted, "FLOAT16")
        small = coreml.compress(plain, precision)
        better = corrected(small, plain, shifted.calibration[0])
        before = _error(small, shifted, tmp_path / "small.mlpackage")
        after = _error(better, shifted, tmp_path / "better.mlpackage")
    assert after < 0.6 * before, (before, after)


@pytest.mark.filterwarnings("ignore")
def test_small_convolutions_have_the_larger_palette(
    needs: Callable[[str], None], shifted: Subject
) -> None:
    """Of 168 thousand weights the first layer has 1152: 2 % is where its palette grows."""
    needs("coreml")
    from optimize.export import coreml

    shifted.module[8] = nn.Linear(400, 400)
    with coreml._quiet():
        small = coreml.compress(coreml.convert(shifted, "FLOAT16"), "palettized")
    palettes = {
        op.outputs[0].shape: op.lut.val.size
        for op in small._mil_program["main"].operations
        if op.op_type == "constexpr_lut_to_dense"
    }
    # The depthwise layer's 144 are left as they are.
    assert palettes == {(16, 8, 3, 3): 256, (400, 16, 1, 1): 64, (400, 400): 64}
