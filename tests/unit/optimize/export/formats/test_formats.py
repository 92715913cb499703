"""Every format for real: its files pass the check, and files that are wrong do not."""

from collections.abc import Callable
from pathlib import Path

import pytest

from optimize.export import check
from optimize.export.formats import registry
from optimize.export.formats.interface import FLOAT32
from optimize.export.runner import Runner
from optimize.export.subject import Exportable, Subject

pytestmark = pytest.mark.slow

Needs = Callable[[str], None]
Converted = Callable[..., Path]
INT8 = [
    ("onnx", "int8"),
    ("openvino", "int8"),
    ("tflite", "int8"),
    ("executorch", "int8"),
    ("aoti", "int8"),
    ("coreml", "float16"),
    ("coreml", "int8"),
    ("coreml", "palettized"),
]


@pytest.mark.parametrize("name", registry.NAMES)
def test_text_of_any_batch_length_and_padding(
    name: str, needs: Needs, sentences: Subject, converted: Converted
) -> None:
    needs(name)
    with Runner(name, converted(name, sentences)) as run:
        errors = check.parity(sentences, run, FLOAT32)
    assert len(errors) == len(sentences.pieces)


@pytest.mark.parametrize(("name", "precision"), INT8)
def test_int8_and_float16_of_pictures(
    name: str, precision: str, needs: Needs, pictures: Exportable, converted: Converted
) -> None:
    needs(name)
    subject = pictures.subjects[0]
    limits = registry.load(name).PRECISIONS[precision]
    path = converted(name, subject, precision)
    with Runner(name, path) as run:
        assert max(check.parity(subject, run, limits).values()) > 1e-5  # not float32 again
        found = check.quantized(run, limits)
        truth = pictures.evaluate({"model": subject})
        check.quality(pictures.evaluate({"model": run}), truth, pictures.metric, limits)
    assert (found > 0) == (precision != "float16")
    weights = sum(p.numel() for p in subject.module.parameters())
    size = sum(f.stat().st_size for f in [path, *path.rglob("*")] if f.is_file())
    assert size < 4 * weights or name == "aoti"  # which is a megabyte of code


@pytest.mark.parametrize("name", ["onnx", "openvino", "tflite", "executorch", "aoti"])
def test_int8_of_text_keeps_masks_out_of_the_scales(
    name: str, needs: Needs, sentences: Subject, converted: Converted
) -> None:
    """Minus infinity among the values of one scale leaves nothing of the others."""
    needs(name)
    limits = registry.load(name).PRECISIONS["int8"]
    with Runner(name, converted(name, sentences, "int8")) as run:
        assert max(check.parity(sentences, run, limits).values()) > 1e-5
        assert check.quantized(run, limits)
