"""TensorFlow SavedModel for TensorFlow Serving: `NAME/1/`, dynamic axes, signature
`serving_default`.

torchax turns the exported program into a JAX function and jax2tf that into a TensorFlow one
with symbolic shapes. No graph of our own making is in between, but convolutions are written as
TensorFlow's compiler for CPUs is fast at (`optimize.export.xla`). Weights are variables; those of
a network with convolutions are constants, laid out for them once per batch size, not per call.
"""

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from optimize.export.formats.base import FLOAT32, Array, Run
from optimize.export.formats.xla import replace_convolution
from optimize.export.subject import Subject

EXTRA = "savedmodel"
MODULES = ("tensorflow", "torchax", "jax")
PACKAGES = ("tensorflow-cpu", "torchax", "jax")
PRECISIONS = {"float32": FLOAT32}
VERSION = "1"

# Overloads of named tensors that torch 2.13 no longer has and torchax 0.0.13 lists in tables
# when it is imported. Nothing calls them.
_REMOVED = {
    "all": ("dimname", "dimname_out"),
    "index_add": ("dimname",),
    "index_copy": ("dimname",),
    "index_copy_": ("dimname",),
    "index_fill": ("Dimname_Scalar", "Dimname_Tensor"),
    "index_fill_": ("Dimname_Scalar", "Dimname_Tensor"),
    "norm": (
        "names_ScalarOpt_dim",
        "names_ScalarOpt_dim_dtype",
        "names_dtype_out",
        "names_out",
    ),
    "prod": ("dim_Dimname",),
    "std": ("correction_names", "correction_names_out", "names_dim", "names_out"),
    "std_mean": ("correction_names", "names_dim"),
    "unbind": ("Dimname",),
}


def file(artifact: str, subject: str) -> str:
    """`NAME/1`, or `NAME-SUBJECT/1` where a model has several."""
    return f"{artifact}/{VERSION}" if subject == "model" else f"{artifact}-{subject}/{VERSION}"


def _torchax() -> Any:
    """`torchax.export`, imported although torch has moved on."""
    for name, overloads in _REMOVED.items():
        packet = getattr(torch.ops.aten, name)
        for overload in overloads:
            if overload not in packet.overloads():
                setattr(packet, overload, object())
    import torchax.export
    from torchax.ops import jaten, ops_registry  # noqa: F401  the first fills the second

    replace_convolution(ops_registry.all_aten_ops)
    return torchax.export


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import tensorflow

    tensorflow.get_logger().setLevel("ERROR")
    tensorflow.config.threading.set_intra_op_parallelism_threads(1)
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)
    return tensorflow


def export(subject: Subject, path: Path, precision: str) -> None:
    """Write the folder `path`; see `optimize.export.Format`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the three libraries' deprecations of each other
        _export(subject, path)


def _export(subject: Subject, path: Path) -> None:
    tf = _tensorflow()
    import numpy as np
    from jax.experimental import jax2tf

    program = torch.export.export(
        subject.module, subject.pieces[0], dynamic_shapes=subject.unbounded()
    )
    weights, function = _torchax().exported_program_to_jax(program)
    shapes = [
        [dims.get(i, size) for i, size in enumerate(tensor.shape)]
        for tensor, dims in zip(subject.pieces[0], subject.dynamic, strict=True)
    ]
    symbolic = [f"({', '.join(str(size) for size in shape)})" for shape in shapes]
    specs = [
        tf.TensorSpec(
            [None if isinstance(size, str) else size for size in shape],
            tf.as_dtype(str(tensor.dtype).removeprefix("torch.")),
            name=name,
        )
        for shape, tensor, name in zip(shapes, subject.pieces[0], subject.inputs, strict=True)
    ]
    module = tf.Module()
    constant = any(isinstance(part, torch.nn.Conv2d) for part in subject.module.modules())
    held = [] if constant else [tf.Variable(np.asarray(w), trainable=False) for w in weights]
    module.weights = held
    converted = jax2tf.convert(
        lambda held, *inputs: function(weights if constant else held, inputs),
        polymorphic_shapes=[None, *symbolic],
        polymorphic_constraints=[
            f"{name} <= {axis.limit}" for name, axis in subject.axes.items() if axis.limit
        ],
        with_gradient=False,
    )

    @tf.function(autograph=False, input_signature=specs)  # type: ignore[untyped-decorator]
    def serve(*inputs: Any) -> dict[str, Any]:
        found = converted(module.weights, *inputs)
        return dict(zip(subject.outputs, found, strict=True))

    module.serve = serve
    # A loaded signature forgets the order of its outputs: its map of them has none.
    module.outputs = tf.Variable(list(subject.outputs), trainable=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def load(path: Path) -> Run:
    """The file's `serving_default`, inputs and outputs in the order they were saved in."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    # A signature is called by name; the specifications keep the order they were saved in.
    names = [spec.name for spec in loaded.serve.concrete_functions[0].structured_input_signature[0]]
    outputs = [name.decode() for name in loaded.outputs.numpy()]

    def run(*arrays: Array) -> list[Array]:
        given = dict(zip(names, (tf.constant(a) for a in arrays), strict=True))
        found = serve(**given)
        return [found[name].numpy() for name in outputs]

    return run


def operators(path: Path) -> dict[str, int]:
    """Operators of all functions by name."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString((path / "saved_model.pb").read_bytes())
    counts: Counter[str] = Counter()
    for graph in (entry.graph_def for entry in model.meta_graphs):
        counts.update(node.op for node in graph.node)
        for function in graph.library.function:
            counts.update(node.op for node in function.node_def)
    return dict(counts)
