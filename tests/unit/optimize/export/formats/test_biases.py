"""Core ML's compressed convolutions: biases take back what rounding shifts, palettes' sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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
    from optimize.export.formats.mil import Program

    model.save(str(path))
    program = Program(path)
    truth = [subject(*piece)[0] for piece in subject.pieces]
    usual = check.usual_norm(truth)
    found = [torch.from_numpy(program(piece[0].numpy())[0]) for piece in subject.pieces]
    return max(check.worst_row(a, b, usual) for a, b in zip(found, truth, strict=True))


def _palettes(subject: Subject) -> dict[tuple[int, ...], int]:
    """How many values the palette of a weight has, by the weight's shape."""
    from optimize.export.formats import coreml

    with coreml._quiet():
        small = coreml.compress(coreml.convert(subject, "FLOAT16"), "palettized")
    return {
        tuple(op.outputs[0].shape): op.lut.val.size
        for op in small._mil_program["main"].operations
        if op.op_type == "constexpr_lut_to_dense"
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["int8", "palettized"])
def test_a_corrected_file_is_nearer(
    needs: Callable[[str], None], shifted: Subject, precision: str, tmp_path: Path
) -> None:
    needs("coreml")
    from optimize.export.formats import coreml
    from optimize.export.formats.biases import corrected

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
    shifted.module[8] = nn.Linear(400, 400)
    # The depthwise layer's 144 are left as they are.
    assert _palettes(shifted) == {(16, 8, 3, 3): 256, (400, 16, 1, 1): 64, (400, 400): 64}


class _Tied(nn.Module):
    """Looks tokens up and scores against the same table; another table is only looked up in."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.inner = nn.Linear(32, 200, bias=False), nn.Linear(32, 32)
        self.places = nn.Embedding(100, 32)

    def forward(self, ids: Tensor) -> Tensor:
        x = functional.embedding(ids.long(), self.head.weight) + self.places(ids.long() % 100)
        scores: Tensor = self.head(self.inner(x))
        return scores


@pytest.mark.filterwarnings("ignore")
def test_a_tied_table_has_the_larger_palette(needs: Callable[[str], None]) -> None:
    needs("coreml")
    torch.manual_seed(0)
    subject = Subject(
        "model",
        _Tied().eval().requires_grad_(False),
        ("ids",),
        ("scores",),
        [(torch.randint(200, (n,), dtype=torch.int32),) for n in (2, 1)],
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    assert _palettes(subject) == {(200, 32): 256, (32, 32): 64, (100, 32): 64}
