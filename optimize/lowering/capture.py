"""The model as one flat graph of ATen operators, with batch normalisation folded away."""

import contextlib
import io
import operator
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from optimize.errors import ModelError
from optimize.lowering.graphs import arguments, aten, constant, replace_constant
from optimize.lowering.inputs import Inputs, as_tuple
from optimize.lowering.passes.dtypes import settle_dtypes
from optimize.lowering.passes.padding import settle_padding
from optimize.lowering.passes.rewrites import drop_true_masks, fold_constants, merge_projections
from optimize.utils import blame
from optimize.utils.parameters import by_parameter

_BATCH_NORM = aten._native_batch_norm_legit_no_training.default
_NO_OPS = (aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default)
_VIEWS = (aten.view.default, aten._unsafe_view.default)
Free = Sequence[Mapping[int, Any]]
"""For every input its dimensions that vary, as `torch.export` takes them."""

_CHECKS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "_assert_async")


def capture(
    model: nn.Module,
    example: Inputs,
    keep_float: Collection[str] = (),
    free: Free | None = None,
) -> fx.GraphModule:
    """Capture `model` with `torch.export`: functional ATen operators, the batch size left free,
    and for ids `[N, L]` the length too.

    Args:
        model: in eval mode, float32, from tensors to a tensor or a tuple of tensors.
        example: one input `[N, ...]` with N of at least 2, or ids `[N, L]` with L of at least 2;
            or a tuple of several inputs `[N, ...]`.
        keep_float: layers that are to stay as they are, never merged with others.
        free: the dimensions that vary, if these are others than said above.

    Raises:
        ModelError: data-dependent control flow, a batch size or length written into the code,
            or an operator that `torch.export` does not know.
    """
    if free is None:
        batch = Dim("batch")
        free = [{0: batch} for _ in as_tuple(example)]
        if isinstance(example, Tensor) and is_ids(example):
            free = [{0: Dim.DYNAMIC, 1: Dim.DYNAMIC}]  # the length's bounds follow from the model
    # torch 2.13's decompositions lose an int32 input
    shapes = by_parameter(model, [dict(dims) for dims in free])
    given = tuple(x.long() if x.dtype == torch.int32 else x for x in as_tuple(example))
    try:
        # On failure torch.export prints the graph that it has so far.
        quiet = contextlib.redirect_stderr(io.StringIO())
        with torch.no_grad(), warnings.catch_warnings(), quiet:
            # torch.export's own calls, deprecated inside torch itself.
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
            # A recurrent layer's list of its own weights, which stay what they are.
            warnings.filterwarnings("ignore", message="The tensor attributes? .* during export")
            program = export(model, given, dynamic_shapes=shapes, strict=False)
            module = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # export runs the user's code: anything can come out
        reason = str(error).strip().splitlines() or [type(error).__name__]
        hint = "take the control flow out of forward()"
        if "specialized" in str(error) or "Not all values of" in str(error):
            hint = "write x.shape[0] where forward() says len(x) or int(x.shape[0])"
        said = (
            f"the model's graph cannot be captured: {reason[0]}; {hint}, or leave the quantize "
            "stage out"
        )
        raise ModelError("\n  ".join([said, *blame.user_lines(error).splitlines()])) from error
    assert isinstance(module, fx.GraphModule)
    _drop_no_ops(module)
    _settle_views(module)
    _drop_checks(module)
    _resolve_padding(module)
    fold_constants(module)
    drop_true_masks(module)
    _fold_batch_norm(module)
    settle_dtypes(module, keep_float)
    merge_projections(module, keep_float)
    if len(given) == 1:
        settle_padding(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def is_ids(example: Tensor) -> bool:
    """Whether an input is token ids `[N, L]`, whose length may vary as well."""
    return example.dim() == 2 and not example.is_floating_point() and example.dtype != torch.uint8


def _drop_checks(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.op == "call_function" and any(name in str(node.target) for name in _CHECKS):
            module.graph.erase_node(node)


def _drop_no_ops(module: fx.GraphModule) -> None:
    for node in list(module.graph.nodes):
        if node.target in _NO_OPS:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)


def _settle_views(module: fx.GraphModule) -> None:
    """`view` becomes `reshape`: the copy that made its input contiguous may have been dropped,
    and kernels lay their results out otherwise than the captured operators."""
    for node in module.graph.nodes:
        if node.target in _VIEWS:
            node.target = aten.reshape.default


def _resolve_padding(module: fx.GraphModule) -> None:
    """Write padding "same" and "valid" of a stride-1 convolution as numbers where both sides
    are alike."""
    for node in list(module.graph.nodes):
        if node.target is not aten.conv2d.padding:
            continue
        x, weight, bias, stride, word, dilation, groups = arguments(node)
        kernel = node.args[1].meta["val"].shape[2:]
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if word == "same" and any(r % 2 for r in reach):
            continue
        padding = [r // 2 for r in reach] if word == "same" else [0, 0]
        node.target = aten.conv2d.default
        node.args = (x, weight, bias, stride, padding, dilation, groups)
        node.kwargs = {}


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """Fold `conv -> batch norm` into the convolution's weight and bias, in float64."""
    graph = module.graph
    for norm in [n for n in graph.nodes if n.target is _BATCH_NORM]:
        conv, gamma, beta, mean, variance, _, eps = arguments(norm)
        if conv.target is not aten.conv2d.default or len(conv.users) != 1:
            continue
        if any(u.target is not operator.getitem or u.args[1] != 0 for u in norm.users if u.users):
            continue
        given = {n: constant(module, n) for n in (*arguments(conv)[1:3], gamma, beta) if n}
        weight, bias = given[conv.args[1]], given.get(arguments(conv)[2])
        means, variances = constant(module, mean), constant(module, variance)
        if weight is None or means is None or variances is None or None in given.values():
            continue
        scale = (variances.double() + eps).rsqrt()
        if (g := constant(module, gamma)) is not None:
            scale = scale * g.double()
        shift = -means.double() * scale
        if bias is not None:
            shift = shift + bias.double() * scale
        if (b := constant(module, beta)) is not None:
            shift = shift + b.double()
        shape = (-1,) + (1,) * (weight.dim() - 1)
        tensors = {"weight": weight.double() * scale.view(shape), "bias": shift}
        reads = {
            k: replace_constant(module, conv, k, t.to(weight.dtype)) for k, t in tensors.items()
        }
        conv.args = (conv.args[0], reads["weight"], reads["bias"], *arguments(conv)[3:])
        conv.kwargs = {}
        for user in list(norm.users):
            user.replace_all_uses_with(conv)
            graph.erase_node(user)
        graph.erase_node(norm)
