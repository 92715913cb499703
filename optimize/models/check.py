"""The first check of a user's model."""

import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.utils import blame


def check(model: nn.Module, name: str, pixels: Tensor, classes: int) -> None:
    """Refuse a model that does not turn uint8 pixels `[N, C, H, W]` into logits `[N, classes]`.

    Raises:
        ModelError: says what the model raised or returned, and how to wrap it.
    """
    wrap = (
        "wrap it in your build function: a module whose forward(pixels) takes uint8 "
        f"{list(pixels.shape)} and returns float logits [{len(pixels)}, {classes}]"
    )
    training = model.training
    try:
        with torch.no_grad():
            answers = model.eval()(pixels)
    except Exception as error:  # the user's code can raise anything
        layer = blame.layer(error)
        said = (
            f"model {name} fails on pixels uint8 {list(pixels.shape)}"
            f"{f' in layer {layer}' if layer else ''}: {blame.first_line(error)}; {wrap}"
        )
        raise ModelError("\n  ".join([said, *blame.user_lines(error).splitlines()])) from error
    finally:
        model.train(training)
    if not isinstance(answers, Tensor):
        raise ModelError(f"model {name} returns {type(answers).__name__}, not logits; {wrap}")
    if answers.shape != (len(pixels), classes) or not answers.is_floating_point():
        raise ModelError(
            f"model {name} returns {answers.dtype} {list(answers.shape)}, not float "
            f"[{len(pixels)}, {classes}]; {wrap}"
        )
