"""ONNX files that torch writes without an error and that are wrong; what does not convert."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.convert import convert
from optimize.export.formats.interface import FLOAT32, INT8
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Exportable, Subject
from optimize.lowering.kernels.quantized import DynamicLinear
from optimize.quantization.quantize import QuantizeOptions, quantize

pytestmark = pytest.mark.slow

Needs = Callable[[str], None]
Converted = Callable[..., Path]


def test_a_static_batch_is_refused(needs: Needs, pictures: Exportable, tmp_path: Path) -> None:
    needs("onnx")
    subject, path = pictures.subjects[0], tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            subject.module, subject.pieces[0], str(path), dynamo=True, input_names=["pixels"]
        )
    assert path.is_file()
    with (
        Runner("onnx", path) as run,
        pytest.raises(ExportRefused, match=r"at batch 1: model.onnx does not run: "),
    ):
        check.parity(subject, run, FLOAT32)


def test_int8_that_was_dropped_silently_is_refused(
    needs: Needs, pictures: Exportable, converted: Converted
) -> None:
    needs("onnx")
    subject = pictures.subjects[0]
    with Runner("onnx", converted("onnx", subject)) as run:
        check.parity(subject, run, INT8)  # its answers are right: only the file tells
        with pytest.raises(ExportRefused, match="nothing quantized"):
            check.quantized(run, INT8)


def test_a_mask_that_was_lost_is_refused(
    needs: Needs, sentences: Subject, converted: Converted
) -> None:
    needs("onnx")

    class Unmasked(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = sentences.module(torch.where(ids == 0, 1, ids))
            return logits

    wrong = Subject(**{**vars(sentences), "module": Unmasked().eval()})
    with (
        Runner("onnx", converted("onnx", wrong)) as run,
        pytest.raises(ExportRefused, match=r"at batch 2, tokens 20: logits differs"),
    ):
        check.parity(sentences, run, FLOAT32)


def test_a_quantized_module_does_not_convert(
    needs: Needs, pictures: Exportable, trained: nn.Module, tmp_path: Path
) -> None:
    """TorchScript's int8 operators have no ONNX: float goes in, ONNX Runtime quantizes."""
    needs("onnx")
    subject = pictures.subjects[0]
    torch.backends.quantized.engine = "onednn"
    images = torch.cat([piece[0] for piece in subject.calibration])
    lowered = quantize(trained, images, QuantizeOptions(calibration=64))
    wrong = Subject(**{**vars(subject), "module": lowered})
    with pytest.raises(ExportRefused, match="model cannot be converted: "):
        convert("onnx", wrong, tmp_path / "model.onnx", "float32")
    assert not list(tmp_path.iterdir())


def test_a_dynamic_int8_linear_does_not_convert(needs: Needs, tmp_path: Path) -> None:
    needs("onnx")
    torch.backends.quantized.engine = "fbgemm"
    x = torch.randn(2, 8)
    subject = Subject(
        "model",
        DynamicLinear(torch.randn(4, 8), None).eval(),
        ("x",),
        ("y",),
        [(x,)],
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    with pytest.raises(ExportRefused, match="model cannot be converted: "):
        convert("onnx", subject, tmp_path / "model.onnx", "float32")
