"""OpenVINO IR: an .xml and its .bin, through torch.export; int8 by NNCF."""

import contextlib
import io
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from optimize.evaluation.session import served
from optimize.export.formats.interface import FLOAT32, INT8, Array, Run, arrays
from optimize.export.subject import Inputs, Subject

EXTRA = "openvino"
MODULES = ("openvino", "nncf")
PACKAGES = ("openvino", "nncf")
PRECISIONS = {"float32": FLOAT32, "int8": INT8}


def file(artifact: str, subject: str) -> str:
    """`SUBJECT.xml`, the weights beside it in `SUBJECT.bin`."""
    return f"{subject}.xml"


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write `path`; see `interface.Format`."""
    import openvino

    model = convert(subject)
    if precision == "int8":
        model = quantize(model, subject)
    openvino.save_model(model, str(path), compress_to_fp16=False)


def convert(subject: Subject) -> Any:
    """An `openvino.Model` with the subject's names and dynamic axes."""
    import openvino

    program = torch.export.export(
        subject.module, subject.pieces[0], dynamic_shapes=subject.unbounded()
    )
    model = openvino.convert_model(program)
    for port, name in zip(model.inputs, subject.inputs, strict=True):
        port.get_tensor().set_names({name})
    for port, name in zip(model.outputs, subject.outputs, strict=True):
        port.get_tensor().set_names({name})
    return model


def quantize(model: Any, subject: Subject) -> Any:
    """Int8 by NNCF: post-training quantization, or with `dynamic` activations int8 weights, for
    which OpenVINO quantizes activations at run time.

    Static quantization corrects biases layer by layer against the quantized network. NNCF's
    default, fast bias correction, corrects each layer alone and lost a point on a small
    convolutional network. Models with attention use NNCF's transformer scheme, which leaves masks
    and softmax in float.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)

    if subject.activations == "dynamic":
        with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
            return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)

    def feed(piece: Inputs) -> list[Array]:
        return [tensor.numpy() for tensor in piece]

    data = nncf.Dataset(subject.calibration, feed)
    operator_types = {op.get_type_name() for op in model.get_ops()}
    attends = not operator_types.isdisjoint(("Softmax", "ScaledDotProductAttention"))
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            data,
            subset_size=len(subject.calibration),
            fast_bias_correction=False,
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
        )


def load(path: Path) -> Run:
    """The file on OpenVINO's CPU plugin, as the handlers load it: float32 where it is not int8."""
    return arrays(served(path))


def operators(path: Path) -> dict[str, int]:
    """Operators by name; `quantized` counts FakeQuantize and int8 weights."""
    import openvino

    nodes = openvino.Core().read_model(str(path)).get_ops()
    counts = Counter(op.get_type_name() for op in nodes)
    int8_types = (openvino.Type.i8, openvino.Type.u8)
    weights = sum(
        op.get_type_name() == "Constant" and op.get_element_type() in int8_types for op in nodes
    )
    return {**counts, "quantized": counts["FakeQuantize"] + weights}
