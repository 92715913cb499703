"""Every format for real: its files pass the check, and files that are wrong do not."""

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optimize import export
from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.convert import convert
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Exportable, Subject
from optimize.quantization.quantize import QuantizeOptions, quantize
from optimize.whisper.layers import Int8Linear

Needs = Callable[[str], None]
INT8 = [
    ("onnx", "int8"),
    ("openvino", "int8"),
    ("tflite", "int8"),
    ("executorch", "int8"),
    ("coreml", "float16"),
    ("coreml", "int8"),
    ("coreml", "palettized"),
]


def written(name: str, subject: Subject, precision: str, folder: Path) -> Path:
    """Convert into a folder as the command does."""
    path = folder / importlib.import_module(f"optimize.export.{name}").file("small", subject.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    convert(name, subject, path, precision)
    return path


@pytest.mark.parametrize("name", export.NAMES)
def test_text_of_any_batch_length_and_padding(
    name: str, needs: Needs, sentences: Subject, tmp_path: Path
) -> None:
    needs(name)
    path = written(name, sentences, "float32", tmp_path)
    with Runner(name, path) as run:
        errors = check.parity(sentences, run, export.FLOAT32)
    assert len(errors) == len(sentences.pieces)


@pytest.mark.parametrize(("name", "precision"), INT8)
def test_int8_and_float16_of_pictures(
    name: str, precision: str, needs: Needs, pictures: Exportable, tmp_path: Path
) -> None:
    needs(name)
    subject = pictures.subjects[0]
    limits = export.load(name).PRECISIONS[precision]
    path = written(name, subject, precision, tmp_path)
    with Runner(name, path) as run:
        assert max(check.parity(subject, run, limits).values()) > 1e-5  # not float32 again
        found = check.quantized(run, limits)
        check.metric(run_metric(pictures, run), run_metric(pictures, subject), limits)
    assert (found > 0) == (precision != "float16")
    weights = sum(p.numel() for p in subject.module.parameters())
    size = sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())
    assert size < 4 * weights


def run_metric(pictures: Exportable, run: Any) -> dict[str, Any]:
    """What the report says of a file."""
    return pictures.evaluate({"model": run})


def test_onnx_with_a_static_batch_is_refused(
    needs: Needs, pictures: Exportable, tmp_path: Path
) -> None:
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
        check.parity(subject, run, export.FLOAT32)


def test_int8_that_was_dropped_silently_is_refused(
    needs: Needs, pictures: Exportable, tmp_path: Path
) -> None:
    needs("onnx")
    subject = pictures.subjects[0]
    path = written("onnx", subject, "float32", tmp_path)
    with Runner("onnx", path) as run:
        check.parity(subject, run, export.INT8)  # its answers are right: only the file tells
        with pytest.raises(ExportRefused, match="nothing quantized"):
            check.quantized(run, export.INT8)


def test_a_mask_that_was_lost_is_refused(needs: Needs, sentences: Subject, tmp_path: Path) -> None:
    needs("onnx")

    class Unmasked(nn.Module):
        def forward(self, ids: Tensor) -> Tensor:
            logits: Tensor = sentences.module(torch.where(ids == 0, 1, ids))
            return logits

    wrong = Subject(**{**vars(sentences), "module": Unmasked().eval()})
    path = written("onnx", wrong, "float32", tmp_path)
    with (
        Runner("onnx", path) as run,
        pytest.raises(ExportRefused, match=r"at batch 2, tokens 20: logits differs"),
    ):
        check.parity(sentences, run, export.FLOAT32)


class Padded(nn.Module):
    """PyTorch's own encoder with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.embed = nn.Embedding(60, 32)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.body(self.embed(ids), src_key_padding_mask=ids == 0)
        real = (ids != 0).float().unsqueeze(2)
        logits: Tensor = self.head((hidden * real).sum(1) / real.sum(1))
        return logits


@pytest.mark.filterwarnings("ignore")
def test_a_mask_that_core_ml_compiles_wrongly_is_refused(
    needs: Needs, sentences: Subject, tmp_path: Path
) -> None:
    """The route from an exported program ends well, and gets the padded row wrong."""
    needs("coreml")
    from optimize.export import coreml

    torch.manual_seed(0)
    subject = Subject(
        **{
            **vars(sentences),
            "module": Padded().eval().requires_grad_(False),
            "pieces": sentences.pieces[:1],
            "axes": {},
            "dynamic": ({},),
        }
    )
    path = tmp_path / "wrong.mlpackage"
    with coreml._quiet():
        import coremltools as ct

        program = torch.export.export(subject.module, subject.pieces[0])
        ct.convert(
            program.run_decompositions({}),
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        ).save(str(path))
    with (
        Runner("coreml", path) as run,
        pytest.raises(ExportRefused, match="at one size: logits differs"),
    ):
        check.parity(subject, run, export.FLOAT32)
    right = written("coreml", subject, "float32", tmp_path / "right")
    with Runner("coreml", right) as run:
        check.parity(subject, run, export.FLOAT32)


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
        written("onnx", wrong, "float32", tmp_path)


def test_a_dynamic_int8_linear_does_not_convert(needs: Needs, tmp_path: Path) -> None:
    needs("onnx")
    torch.backends.quantized.engine = "fbgemm"
    x = torch.randn(2, 8)
    subject = Subject(
        "model",
        Int8Linear(torch.randn(4, 8), None).eval(),
        ("x",),
        ("y",),
        [(x,)],
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    with pytest.raises(ExportRefused, match="model cannot be converted: "):
        written("onnx", subject, "float32", tmp_path)


class Loud(nn.Module):
    """Intermediate values past float16's 65,504, answers of ordinary size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.second(torch.relu(self.first(x) * 3e5) / 3e5)
        return logits


def test_float16_that_overflows_is_refused_and_float32_is_not(needs: Needs, tmp_path: Path) -> None:
    needs("coreml")
    torch.manual_seed(0)
    pieces = [(torch.randn(n, 8),) for n in (2, 1, 5)]
    subject = Subject(
        "model",
        Loud().eval().requires_grad_(False),
        ("x",),
        ("y",),
        pieces,
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    half = written("coreml", subject, "float16", tmp_path / "half")
    whole = written("coreml", subject, "float32", tmp_path / "whole")
    with Runner("coreml", whole) as run:
        check.parity(subject, run, export.FLOAT32)
    with (
        Runner("coreml", half) as run,
        pytest.raises(ExportRefused, match="y differs from the module by inf"),
    ):
        check.parity(subject, run, export.FLOAT16)


def test_int8_outputs_without_scale_and_zero_point_are_refused(
    needs: Needs, pictures: Exportable, tmp_path: Path
) -> None:
    """The interpreter hands out raw int8: who forgets to scale gets numbers, not an error."""
    needs("tflite")
    subject = pictures.subjects[0]
    path = written("tflite", subject, "int8", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(str(path)).get_signature_runner("batch_8")

    def raw(pixels: Tensor) -> list[Tensor]:
        (found,) = signature(args_0=pixels.numpy()).values()
        return [torch.from_numpy(found)]

    wide = Subject(**{**vars(subject), "pieces": subject.pieces[3:]})
    with pytest.raises(ExportRefused, match="batch 8: logits differs"):
        check.parity(wide, raw, export.INT8)


def test_a_file_that_is_cut_off_is_refused(
    needs: Needs, pictures: Exportable, tmp_path: Path
) -> None:
    needs("onnx")
    path = written("onnx", pictures.subjects[0], "float32", tmp_path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ExportRefused, match=r"model.onnx does not run: "), Runner("onnx", path):
        pass


def test_a_process_that_ends_is_told_of(pictures: Exportable, tmp_path: Path) -> None:
    from optimize import checkpoint

    class Fatal(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            import os

            os._exit(3)

    path = tmp_path / "eager.pt"
    checkpoint.save(Fatal(), path)
    with (
        Runner("eager", path) as run,
        pytest.raises(ExportRefused, match=r"eager.pt: its process ended"),
    ):
        run(*pictures.subjects[0].pieces[0])
