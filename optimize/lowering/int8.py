"""Lower a float model to uint8 activations and int8 weights in oneDNN kernels."""

import copy
import math
import warnings
from collections.abc import Collection, Iterable
from typing import Literal

import torch
from torch import Tensor, fx, nn

from optimize.errors import DataError, ModelError
from optimize.lowering.blame import try_out
from optimize.lowering.capture import Free, capture, is_ids
from optimize.lowering.emit import Emitter
from optimize.lowering.graphs import arguments, aten
from optimize.lowering.inputs import Inputs, count, rows
from optimize.lowering.observers import Ranges, calibrate
from optimize.lowering.passes.unpad import find_packing
from optimize.lowering.passes.zero_points import fold_offsets
from optimize.lowering.plan import make_plan
from optimize.lowering.qparams import QParams
from optimize.utils.torchscript import silenced

Engine = Literal["onednn", "fbgemm"]
Attention = Literal["bf16", "fp32"]

ENGINE: Engine = "onednn"
_TRANSFORMER = (aten.scaled_dot_product_attention.default, aten.layer_norm.default)
# FBGEMM starts a kernel in 2 us against oneDNN's 12, and computes 10 to 30% slower: below this
# many multiply-accumulates per kernel and input it wins.
_SMALL_KERNEL = 2.5e6
# The same for the linear layers of transformers, whose kernels quantize and dequantize inside:
# equal at 80 tokens of 384 x 512 (the two engines, with GELU and quantize, on one thread).
_SMALL_LINEAR = 1.5e7


class Lowered(nn.Module):
    """What `lower_int8` returns: trace, freeze and save it like any module.

    Attributes:
        engine: what `torch.backends.quantized.engine` must be, in the process that runs it and
            before a saved file is loaded.
        lowered: names of the layers that run in int8.
        left_in_float: names of the layers that do not, with the reason.
        traceable: whether it may be traced and frozen; else save what `scripted()` returns.
    """

    def __init__(
        self,
        body: nn.Module,
        engine: Engine,
        lowered: tuple[str, ...],
        left_in_float: dict[str, str],
        traceable: bool,
    ) -> None:
        super().__init__()
        self.body = body
        self.engine, self.lowered, self.left_in_float = engine, lowered, left_in_float
        self.traceable = traceable

    def forward(self, *inputs: Tensor) -> Inputs:
        result: Inputs = self.body(*inputs)
        return result

    def scripted(self) -> torch.jit.ScriptModule:
        """The TorchScript module to save, as it is: tracing would lose the choice between
        copies, freezing would store each of them."""
        with silenced(), warnings.catch_warnings():
            # torch.jit looks through the source of torch.fx.GraphModule and finds fault.
            warnings.filterwarnings("ignore", message="The TorchScript type system doesn't")
            scripted: torch.jit.ScriptModule = torch.jit.script(self.body)
            # FBGEMM's packed weights are stored once, frozen or not.
            return torch.jit.freeze(scripted) if self.engine == "fbgemm" else scripted


def lower_int8(
    model: nn.Module,
    calibration: Iterable[Inputs],
    *,
    input_scale: float | None = None,
    input_zero_point: int | None = None,
    engine: Engine | None = None,
    hot_batch: int | None = None,
    attention: Attention = "bf16",
    keep_float: Collection[str] = (),
    ranges: Ranges = "mse",
    free: Free | None = None,
    table_bits: int = 8,
) -> Lowered:
    """Quantize `model` statically (Jacob et al. 2018) and lower it to int8 kernels.

    Activations are uint8 from kernel to kernel; weights are int8 per output channel; batch
    norm, bias, ReLU and residual adds happen inside the kernels, and a clamp such as ReLU6 is
    the saturation of uint8 itself, hence free and exact. Layers without an int8 kernel stay in
    float32 and are named in `left_in_float`.

    Args:
        model: float32, in eval mode, from tensors to a tensor or a tuple. Left as it is.
        calibration: batches of real inputs `[N, ...]`, as the returned module takes them:
            uint8 pixels when `input_scale` is given, else float32, a tuple of tensors for a
            model of several inputs. One batch must hold at least two.
        input_scale, input_zero_point: when given, the returned module takes uint8
            `[N, C, H, W]` pixels that mean `(pixel - input_zero_point) * input_scale` to
            `model`, and reads them as its quantized input without any arithmetic. For
            `(pixel / 255 - mean) / std` that is `input_scale = 1 / (255 * std)` and
            `input_zero_point = 255 * mean`, when that is a whole number. Pixels that lie in
            memory as `[N, H, W, C]` (a permuted view) are read without a copy.
        engine: the kernels; by default FBGEMM for networks of small dense convolutions and for
            small transformers of short texts, whose latency is the start of each kernel, and
            oneDNN for all others.
        hot_batch: with oneDNN, keep the kernels ready to run for batch 1, for this batch size
            and for the first other one, by copies of the packed weights in memory (the file
            holds them once). None: kernels ready for the first batch size they meet only.
        attention: what self-attention on oneDNN computes its products in.
        keep_float: names of layers, or of modules that contain them, that stay in float32
            because they cost accuracy; they are named in `left_in_float`.
        ranges: how activation ranges follow from the calibration data.
        free: the dimensions that vary, see `capture`.
        table_bits: 8 or 4, of large tables of embeddings; one of an odd width keeps 8.

    Returns:
        A module whose `scripted()` is ready to save; the file needs plain torch alone, with
        `torch.backends.quantized.engine` set to the module's `engine` before it is loaded.
        Without `hot_batch` it may also be traced and frozen. Sets this process' engine.

    Raises:
        ModelError: the graph cannot be captured, or `keep_float` names no module of it.
        DataError: no calibration data.
    """
    known = dict(model.named_modules())
    if unknown := [name for name in keep_float if name not in known]:
        raise ModelError(f"the model has no layer named {unknown[0]!r} to keep in float")
    pixels = None
    if input_scale is not None:
        pixels = QParams(float(input_scale), int(input_zero_point or 0))
    given = list(calibration)
    batches = [_as_float(batch, pixels) for batch in given]
    index = next((i for i, b in enumerate(batches) if count(b) >= 2), None)
    if index is None:
        raise DataError("quantization needs calibration data: one batch of two inputs or more")
    example = batches[index]
    graph = capture(copy.deepcopy(model).eval(), rows(example, 0, 2), keep_float, free)
    transformer = any(n.target in _TRANSFORMER for n in graph.graph.nodes)
    ids = example if free is None and isinstance(example, Tensor) and is_ids(example) else None
    positions = None if ids is None else _mean_length(b for b in batches if isinstance(b, Tensor))
    engine = engine or _suitable_engine(graph, transformer, positions)
    ready = hot_batch if engine == "onednn" else None
    packing = find_packing(graph, ids) if transformer and ids is not None else None
    plan = make_plan(
        graph,
        onednn=engine == "onednn",
        transformer=transformer,
        packing=packing,
        keep_float=keep_float,
    )
    plan.half_attention = attention == "bf16"
    qparams = calibrate(graph, plan.observed(), batches, ranges, packing)
    offsets = fold_offsets(plan, qparams)
    # Both packing and the fused adds look at the engine, the latter whenever they run.
    torch.backends.quantized.engine = engine
    with silenced(), torch.no_grad(), warnings.catch_warnings():
        # torch 2.13 announces the end of quantized dtypes, once, at the first such tensor.
        warnings.filterwarnings("ignore", message=r"torch\.quantize_per_tensor.* are deprecated")
        body = Emitter(graph, plan, qparams, pixels, offsets, ready, table_bits).emit()
        try_out(body, graph, rows(given[index], 0, 2))
    return Lowered(
        body, engine, tuple(plan.lowered()), plan.refused, not transformer and ready is None
    ).eval()


def _suitable_engine(graph: fx.GraphModule, transformer: bool, length: float | None) -> Engine:
    """FBGEMM for small kernels; its grouped convolutions saturate at 16 bits on the way.

    Args:
        length: mean number of tokens of an input; None where the graph knows the sizes.
    """
    work = []
    for node in graph.graph.nodes:
        if node.target in (aten.conv2d.default, aten.linear.default):
            shape = list(node.meta["val"].shape)
            positions = shape[2:] if node.target is aten.conv2d.default else shape[1:-1]
            count = math.prod(p if isinstance(p, int) else length or 1 for p in positions)
            work.append(node.args[1].meta["val"].numel() * count)
            if node.target is aten.conv2d.default and arguments(node)[6] != 1:
                return ENGINE
    small = _SMALL_LINEAR if transformer else _SMALL_KERNEL
    return "fbgemm" if work and sum(work) / len(work) < small else ENGINE


def _mean_length(batches: Iterable[Tensor]) -> float:
    """Mean number of tokens that are not padding (id 0) of ids `[N, L]`."""
    counts = torch.cat([(ids != 0).sum(1) for ids in batches])
    return float(counts.double().mean())


def _as_float(batch: Inputs, pixels: QParams | None) -> Inputs:
    if pixels is None or not isinstance(batch, Tensor):
        return batch
    return (batch.float() - pixels.zero_point) * pixels.scale
