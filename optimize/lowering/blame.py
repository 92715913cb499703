"""Errors of one operator of a graph, told as errors of the layer it came from."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from optimize.errors import ModelError, OptimizeError
from optimize.lowering.graphs import layer_name
from optimize.lowering.inputs import Inputs, as_tuple, rows

_LAYER = "layer"
_SIZES = (2, 1)


@contextmanager
def blamed(layer: str, failing: str) -> Iterator[None]:
    """Turn what escapes into a `ModelError` that names the layer and the way out.

    Args:
        layer: its dotted name.
        failing: what it cannot do, after its name.

    Raises:
        ModelError: one sentence; the first line of what was raised is in it.
    """
    try:
        yield
    except OptimizeError:
        raise
    except Exception as error:  # operators raise all kinds
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ModelError(
            f"layer {layer} {failing} ({type(error).__name__}: {first}); leave it in float with "
            f"keep: [{layer}], use method: weight_only_int8, or leave the quantize stage out"
        ) from error


def note_layer(graph: fx.Graph, layer: str) -> None:
    """Write into the newest nodes of a graph that is being made which layer they belong to."""
    for made in reversed(graph.nodes):
        if _LAYER in made.meta:
            return
        made.meta[_LAYER] = layer


class Blaming(fx.Interpreter):
    """Runs a graph node by node, and names the layer of one that fails."""

    def __init__(self, module: fx.GraphModule, failing: str) -> None:
        super().__init__(module)
        self.failing, self.extra_traceback = failing, False

    def run_node(self, n: fx.Node) -> Any:
        with blamed(n.meta.get(_LAYER) or layer_name(n), self.failing):
            return super().run_node(n)


def try_out(body: nn.Module, source: fx.GraphModule, inputs: Inputs) -> None:
    """Run a new graph on batches of two sizes, as its file will be.

    Args:
        body: the new graph; not run itself, as kernels prepare for the first sizes they meet.
        source: the float graph that it was made from.
        inputs: `[2, ...]`, one or a tuple, as `body` takes them.

    Raises:
        ModelError: names the layer that fails, or says that answers are no numbers or of another
            shape.
    """
    if not isinstance(body, fx.GraphModule):
        return
    with warnings.catch_warnings():
        # torch's own way of copying a quantized tensor.
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")
        trial = copy.deepcopy(body)
    with torch.no_grad():
        for size in _SIZES:
            blaming = Blaming(trial, "fails in its quantized form")
            found = as_tuple(blaming.run(*as_tuple(rows(inputs, 0, size))))
            made = next(n for n in source.graph.nodes if n.op == "output").args[0]
            for answers, node in zip(found, made, strict=True):
                shape = [
                    s if isinstance(s, int) else a
                    for s, a in zip(node.meta["val"].shape, answers.shape, strict=False)
                ]
                if list(answers.shape) != shape or not answers.isfinite().all():
                    raise ModelError(
                        f"the quantized model answers {list(answers.shape)} with "
                        f"{int((~answers.isfinite()).sum())} values that are no numbers; find "
                        "the layer with sensitivity: true and leave it in float with keep: "
                        "[LAYER], or use method: weight_only_int8"
                    )
