"""Static int8 quantization (Jacob et al. 2018): uint8 activations, int8 weights per channel."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from optimize.lowering import ENGINE, Lowered, lower_int8
from optimize.models import Normalized

__all__ = ["ENGINE", "QuantizeOptions", "quantize"]

_BATCH = 64


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        method: `static_int8`.
        calibration: number of real inputs that set the activation ranges.
    """

    method: Literal["static_int8"] = "static_int8"
    calibration: int = 512

    def __post_init__(self) -> None:
        if self.calibration < 2:
            raise ValueError("calibration must be 2 images or more")


def quantize(
    model: nn.Module, calibration: Tensor, options: QuantizeOptions | None = None
) -> Lowered:
    """Quantize a float classifier; returns a new module on the CPU, in eval mode.

    Args:
        model: takes uint8 `[N, C, H, W]`; left as it is. In a `Normalized` whose mean is one
            whole number the pixels become the quantized input as they are.
        calibration: real inputs uint8 `[N, C, H, W]`, from the training data.
        options: see `QuantizeOptions`.

    Returns:
        A module that names its int8 layers in `lowered` and the others, with the reason, in
        `left_in_float`. The process that runs it needs
        `torch.backends.quantized.engine = ENGINE`.

    Raises:
        ModelError: the graph cannot be captured (data-dependent control flow, say).
        DataError: fewer than two calibration inputs.
    """
    options = options or QuantizeOptions()
    batches = calibration[: options.calibration].split(_BATCH)
    pixels = model.input_quantization() if isinstance(model, Normalized) else None
    if isinstance(model, Normalized) and pixels is not None:
        return lower_int8(model.body, batches, input_scale=pixels[0], input_zero_point=pixels[1])
    return lower_int8(model, batches)
