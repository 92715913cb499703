"""The first check of a user's model."""

import torch
from torch import Tensor, nn

from optimize.errors import ModelError
from optimize.models.notes import note
from optimize.utils import blame
from optimize.utils.wording import few


def check(model: nn.Module, name: str, inputs: Tensor, classes: int, kind: str = "pixels") -> None:
    """Refuse a model that does not turn inputs into logits `[N, classes]`; note if what it
    returns are probabilities.

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
        if inputs.dtype == torch.uint8 and "shape" in str(error):
            wrap = f"if it takes another size, say it, `input: {{size: 224}}`; or {wrap}"
        if inputs.dtype == torch.uint8 and _takes_floats(model, inputs, classes):
            wrap = (
                "it takes floats: say in the recipe how pixels become those, as in its training, "
                "`input: {value_range: 0..1}` or with `mean` and `std`"
            )
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
    if answers.isnan().any():
        bad = [key for key, value in model.state_dict().items() if _not_finite(value)]
        cause = f"{few(bad)} hold NaN or infinity" if bad else "look for a division by 0 or a log"
        raise ModelError(f"model {name} answers NaN to the data's first {kind}: {cause}")
    if classes > 1 and (answers >= 0).all() and ((answers.sum(1) - 1).abs() < 1e-3).all():
        note(
            model,
            f"{name} returns probabilities (each row sums to 1), and its answers are taken for "
            "logits: the served probabilities will be too even and training learns less. Leave "
            "the softmax out of the model",
        )


def _takes_floats(model: nn.Module, pixels: Tensor, classes: int) -> bool:
    """Whether the model, in eval mode, turns pixels as floats into logits."""
    try:
        with torch.no_grad():
            answers = model(pixels / 255.0)
    except Exception:  # the user's code can raise anything
        return False
    return isinstance(answers, Tensor) and answers.shape == (len(pixels), classes)


def _not_finite(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()
