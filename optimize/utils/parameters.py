"""The parameters of a module's `forward`, as `torch.export` counts them."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn


def by_parameter(module: nn.Module, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """One thing for every input as one for every parameter: all inputs of a `forward(*inputs)` are
    one parameter's."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    variadic = inspect.Parameter.VAR_POSITIONAL in kinds
    return (tuple(inputs),) if variadic else tuple(inputs)
