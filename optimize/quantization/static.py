"""Static int8 (Jacob et al. 2018), on top of `optimize.lowering`."""

from collections.abc import Collection
from typing import Literal

import torch
from torch import fx, nn

from optimize.errors import OptionError
from optimize.lowering import Lowered, lower_int8
from optimize.lowering.capture import Free
from optimize.lowering.graphs import aten, constant
from optimize.lowering.inputs import Inputs, split
from optimize.lowering.int8 import Attention, Engine
from optimize.lowering.observers import Ranges
from optimize.models.normalized import Normalized

Fallback = Literal["fp32", "bf16"]
_BATCH = 64
_BODY = "body."


def to_static_int8(
    model: nn.Module,
    calibration: Inputs,
    *,
    keep_float: Collection[str] = (),
    ranges: Ranges = "mse",
    fallback: Fallback = "fp32",
    engine: Engine | None = None,
    hot_batch: int | None = None,
    attention: Attention = "bf16",
    free: Free | None = None,
) -> Lowered:
    """uint8 activations, int8 weights per channel; see `optimize.lowering.lower_int8`.

    Args:
        model: float32, in eval mode; left as it is. In a `Normalized` whose mean is one whole
            number the pixels become the quantized input as they are.
        calibration: real inputs `[N, ...]`, two or more, that set the activation ranges.
        keep_float: names of layers, or of modules that contain them, that stay in float.
        ranges: how ranges follow from the calibration data.
        fallback: what those layers compute in.
        engine, hot_batch, attention, free: as `lower_int8` takes them.

    Raises:
        ModelError: the graph cannot be captured.
        DataError: fewer than two inputs.
        OptionError: `keep_float` names no module.
    """
    known = dict(model.named_modules())
    for name in keep_float:
        if name not in known:
            raise OptionError(f"keep: there is no layer {name!r} in this model")
    batches = split(calibration, _BATCH)
    pixels = model.input_quantization() if isinstance(model, Normalized) else None
    if isinstance(model, Normalized) and pixels is not None:
        kept = [name.removeprefix(_BODY) for name in keep_float if name.startswith(_BODY)]
        lowered = lower_int8(
            model.body,
            batches,
            input_scale=pixels[0],
            input_zero_point=pixels[1],
            keep_float=kept,
            ranges=ranges,
            engine=engine,
            hot_batch=hot_batch,
            attention=attention,
        )
        lowered.lowered = tuple(_BODY + name for name in lowered.lowered)
        lowered.left_in_float = {_BODY + k: v for k, v in lowered.left_in_float.items()}
    else:
        lowered = lower_int8(
            model,
            batches,
            keep_float=keep_float,
            ranges=ranges,
            engine=engine,
            hot_batch=hot_batch,
            attention=attention,
            free=free,
        )
    if fallback == "bf16" and isinstance(lowered.body, fx.GraphModule):
        _halve(lowered.body)
    return lowered


def _halve(body: fx.GraphModule) -> None:
    """Compute the layers that are left in float32 in bfloat16, between two casts."""
    graph = body.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (aten.conv2d, aten.linear):
            continue
        stored = [(i, a) for i, a in enumerate(node.args[1:3], 1) if isinstance(a, fx.Node)]
        tensors = [constant(body, read) for _, read in stored]
        if any(tensor is None or tensor.dtype != torch.float32 for tensor in tensors):
            continue
        arguments = list(node.args)
        with graph.inserting_before(node):
            arguments[0] = graph.call_method("to", (node.args[0], torch.bfloat16))
            for (index, read), tensor in zip(stored, tensors, strict=True):
                assert tensor is not None
                body.register_buffer(f"{read.target}_half", tensor.to(torch.bfloat16))
                arguments[index] = graph.get_attr(f"{read.target}_half")
        node.args = tuple(arguments)
        with graph.inserting_after(node):
            widened = graph.call_method("float", (node,))
        node.replace_all_uses_with(widened, lambda user, keep=widened: user is not keep)
    graph.eliminate_dead_code()
    body.delete_all_unused_submodules()
    used = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in body.named_buffers(recurse=False) if n not in used]:
        delattr(body, name)
    body.recompile()
