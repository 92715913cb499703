"""TensorFlow Lite: outputs that have to be scaled, whole numbers that become int32."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from optimize.errors import ExportRefused
from optimize.export import check
from optimize.export.formats.interface import FLOAT32, INT8
from optimize.export.runner import Runner
from optimize.export.subject import Axis, Exportable, Subject

Needs = Callable[[str], None]
Converted = Callable[..., Path]


def test_int8_outputs_without_scale_and_zero_point_are_refused(
    needs: Needs, pictures: Exportable, converted: Converted
) -> None:
    """The interpreter hands out raw int8: who forgets to scale gets numbers, not an error."""
    needs("tflite")
    subject = pictures.subjects[0]
    path = converted("tflite", subject, "int8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ai_edge_litert.interpreter import Interpreter

        signature = Interpreter(str(path)).get_signature_runner("batch_8")

    def raw(pixels: Tensor) -> list[Tensor]:
        (found,) = signature(args_0=pixels.numpy()).values()
        return [torch.from_numpy(found)]

    wide = Subject(**{**vars(subject), "pieces": subject.pieces[3:]})
    with pytest.raises(ExportRefused, match="batch 8: logits differs"):
        check.parity(wide, raw, INT8)


def test_whole_numbers_of_64_bits_are_taken(needs: Needs, converted: Converted) -> None:
    """The file asks for int32 where the module takes int64."""
    needs("tflite")
    torch.manual_seed(0)
    pieces = [(torch.randint(0, 50, (n, 6)),) for n in (2, 1, 3, 8)]
    subject = Subject(
        "model",
        nn.Sequential(nn.Embedding(50, 8), nn.Flatten(), nn.Linear(48, 3)).eval(),
        ("ids",),
        ("y",),
        pieces,
        [],
        {"batch": Axis()},
        ({0: "batch"},),
        ({0: "batch"},),
    )
    assert pieces[0][0].dtype == torch.int64
    with Runner("tflite", converted("tflite", subject)) as run:
        check.parity(subject, run, FLOAT32)
