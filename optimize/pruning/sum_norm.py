"""Normalisation that channels of zeros do not change, for comparing a model with a smaller one."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class SumNorm(TorchFunctionMode):
    """Within it layer, group and RMS normalisation divide by the root of the sum of squares.

    The mean and variance that they use depend on the number of channels, so that leaving out
    channels of zeros changes the others' values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.layer_norm, torch.layer_norm):
            return _normalized(*args[:4], **kwargs)
        if func in (F.rms_norm, torch.rms_norm):
            return _normalized(*args[:3], **kwargs)
        if func in (F.group_norm, torch.group_norm):
            return _group_normalized(*args[:4], **kwargs)
        return func(*args, **kwargs)


def _normalized(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    dimensions = tuple(range(-len(normalized_shape), 0))
    y = 8 * input / (input.square().sum(dimensions, keepdim=True) + 1e-5).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _group_normalized(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **_: Any,
) -> Tensor:
    grouped = input.reshape(len(input), num_groups, -1)
    y = _normalized(grouped, grouped.shape[2:]).view_as(input)
    shape = (1, -1, *[1] * (input.dim() - 2))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)
