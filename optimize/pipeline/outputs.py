"""The outputs of a model: their number, shapes and kinds, which no stage may change."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optimize.errors import ModelError
from optimize.tasks.base import Inputs

Outputs = list[tuple[Any, ...]]


def outputs_of(model: nn.Module, call: Inputs) -> Outputs:
    """What a model returns: a description of each tensor.

    The shape of floating-point tensors, the number of dimensions of others: token ids are as many
    as the text is long.
    """
    with torch.no_grad():
        leaves = pytree.tree_leaves(model.eval()(*call))
    return [_described(leaf) for leaf in leaves]


def check_outputs(model: nn.Module, call: Inputs, before: Outputs, stage: str) -> None:
    """Refuse a model that returns something else than the model before a stage.

    Raises:
        ModelError: says what it returned, and what it returns now.
    """
    after = outputs_of(model, call)
    if after != before:
        raise ModelError(
            f"stage {stage} changed what the model returns, from {_said(before)} to "
            f"{_said(after)}: name the layers that make its outputs in the stage's keep, if it has "
            "one, or leave the stage out"
        )


def _described(leaf: Any) -> tuple[Any, ...]:
    if not isinstance(leaf, Tensor):
        return (type(leaf).__name__,)
    if leaf.is_floating_point():
        return ("float", *leaf.shape)
    return (str(leaf.dtype).removeprefix("torch."), f"{leaf.dim()} dimensions")


def _said(outputs: Outputs) -> str:
    return " and ".join(f"{kind} {list(shape)}" for kind, *shape in outputs) or "nothing"
