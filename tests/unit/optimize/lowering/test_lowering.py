"""The rules of the package, read from the sources."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
RAW = re.compile(
    r"ops\.(quantized|onednn)\b|\b\w+_prepack\b|\bqlinear_\w+|\bqconv_\w+"
    r"|(?<!\\)\.quantize_per_(tensor|channel)\b|\b_make_per_\w+_quantized_tensor\b"
    r"|\b_empty_affine_quantized\b"
)
SCALE = re.compile(r"/ ?127(\.0)?\b")


@pytest.mark.parametrize(
    "line",
    [
        "torch.ops.quantized.linear(x)",
        "torch.quantize_per_channel(w, s, z, 0, t)",
        "torch.ops.onednn.qlinear_pointwise(x)",
    ],
)
def test_the_pattern_knows_a_raw_operator(line: str) -> None:
    assert RAW.search(line)


def _lines(folders: tuple[str, ...], pattern: re.Pattern[str], inside: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if not path.is_relative_to(ROOT / inside)
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line)
    ]


def test_raw_quantized_operators_are_called_here_alone() -> None:
    assert _lines(("optimize", "deploy", "benchmarks"), RAW, "optimize/lowering") == []


def test_scales_are_computed_in_one_module() -> None:
    assert _lines(("optimize",), SCALE, "optimize/lowering/qparams.py") == []
