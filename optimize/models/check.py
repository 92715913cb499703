"""The first check of a user's model."""

import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.utils import blame


def check(model: nn.Module, name: str, inputs: Tensor, classes: int, kind: str = "pixels") -> None:
    """Refuse a model that does not turn inputs into logits `[N, classes]`.

    Args:
        model: the user's.
        name: for messages.
        inputs: of the data: uint8 pixels `[N, C, H, W]`, or int32 token ids `[N, L]`.
        classes: number of classes.
        kind: what the inputs are.

    Raises:
        ModelError: says what the model raised or returned, and how to wrap it.
    """
    dtype = str(inputs.dtype).removeprefix("torch.")
    wrap = (
        f"wrap it in your build function: a module whose forward({kind.split()[-1]}) takes "
        f"{dtype} {list(inputs.shape)} and returns float logits [{len(inputs)}, {classes}]"
    )
    training = model.training
    try:
        with torch.no_grad():
            answers = model.eval()(inputs)
    except Exception as error:  # the user's code can raise anything
        layer = blame.layer(error)
        said = (
            f"model {name} fails on {kind} {dtype} {list(inputs.shape)}"
            f"{f' in layer {layer}' if layer else ''}: {blame.first_line(error)}; {wrap}"
        )
        raise ModelError("\n  ".join([said, *blame.user_lines(error).splitlines()])) from error
    finally:
        model.train(training)
    if not isinstance(answers, Tensor):
        raise ModelError(f"model {name} returns {type(answers).__name__}, not logits; {wrap}")
    if answers.shape != (len(inputs), classes) or not answers.is_floating_point():
        raise ModelError(
            f"model {name} returns {answers.dtype} {list(answers.shape)}, not float "
            f"[{len(inputs)}, {classes}]; {wrap}"
        )
