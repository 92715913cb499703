"""TensorFlow SavedModel for TensorFlow Serving: `NAME/1/`, dynamic axes, signature
`serving_default`.

torchax turns the exported program into a JAX function, and jax2tf turns that into a TensorFlow
function with symbolic shapes. Convolutions are rewritten to a form that XLA's CPU compiler runs
fast (`optimize.export.formats.xla`). Weights are variables; in networks with convolutions they are
constants, so that their layout is changed once per batch size, not per call.
"""

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from optimize.export.formats.interface import FLOAT32, Array, Run
from optimize.export.formats.xla import replace_convolution
from optimize.export.subject import Subject

EXTRA = "savedmodel"
MODULES = ("tensorflow", "torchax", "jax")
PACKAGES = ("tensorflow-cpu", "torchax", "jax")
PRECISIONS = {"float32": FLOAT32}
VERSION = "1"

# Overloads of named tensors that torch 2.13 no longer has, but torchax 0.0.13 lists in tables at
# import. Nothing calls them.
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
    """`torchax.export`, with placeholders for operators that torch has removed."""
    for name, overloads in _REMOVED.items():
        packet = getattr(torch.ops.aten, name)
        for overload in overloads:
            if overload not in packet.overloads():
                setattr(packet, overload, object())
    import torchax.export
    from torchax.ops import jaten, ops_registry  # noqa: F401  jaten fills ops_registry

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
    """Write the folder `path`; see `interface.Format`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation warnings among the three libraries
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
    variables = [] if constant else [tf.Variable(np.asarray(w), trainable=False) for w in weights]
    module.weights = variables
    converted = jax2tf.convert(
        lambda variables, *inputs: function(weights if constant else variables, inputs),
        polymorphic_shapes=[None, *symbolic],
        polymorphic_constraints=[
            f"{name} <= {axis.limit}" for name, axis in subject.axes.items() if axis.limit
        ],
        with_gradient=False,
    )

    @tf.function(autograph=False, input_signature=specs)  # type: ignore[untyped-decorator]
    def serve(*inputs: Any) -> dict[str, Any]:
        outputs = converted(module.weights, *inputs)
        return dict(zip(subject.outputs, outputs, strict=True))

    module.serve = serve
    # A loaded signature does not keep the order of its outputs.
    module.outputs = tf.Variable(list(subject.outputs), trainable=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def load(path: Path) -> Run:
    """The file's `serving_default`, with inputs and outputs in the subject's order."""
    tf = _tensorflow()
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    # Signatures take keyword arguments; their specifications keep the order of the inputs.
    names = [spec.name for spec in loaded.serve.concrete_functions[0].structured_input_signature[0]]
    outputs = [name.decode() for name in loaded.outputs.numpy()]

    def run(*arrays: Array) -> list[Array]:
        tensors = dict(zip(names, (tf.constant(a) for a in arrays), strict=True))
        answers = serve(**tensors)
        return [answers[name].numpy() for name in outputs]

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
