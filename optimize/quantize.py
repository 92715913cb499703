"""Static int8 quantization with oneDNN kernels (Jacob et al. 2018): uint8 activations,
int8 weights per channel, histogram-calibrated ranges.

`torch.ao.quantization` works in torch 2.13 and warns that it is deprecated; only this module
calls it.
"""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.ao.quantization import FixedQParamsObserver, get_default_qconfig_mapping
from torch.ao.quantization.backend_config import get_onednn_backend_config
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from optimize.errors import ModelError
from optimize.models import Normalized
from optimize.torchscript import silenced

ENGINE = "onednn"


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize.

    Attributes:
        method: `static_int8`.
        calibration: number of training images that set the activation ranges.
    """

    method: Literal["static_int8"] = "static_int8"
    calibration: int = 512

    def __post_init__(self) -> None:
        if self.calibration < 1:
            raise ValueError("calibration must be 1 image or more")


class _PixelInput(nn.Module):
    """Marks uint8 pixels as the body's quantized input, without touching them."""

    def __init__(self, body: nn.Module, scale: float, zero_point: int) -> None:
        super().__init__()
        self.body, self.scale, self.zero_point = body, scale, zero_point

    def forward(self, pixels: Tensor) -> Tensor:
        quantized = torch._make_per_tensor_quantized_tensor(pixels, self.scale, self.zero_point)
        logits: Tensor = self.body(quantized)
        return logits


def _drop_input_quantization(graph_module: torch.fx.GraphModule) -> None:
    """Let the graph take the quantized tensor itself."""
    graph = graph_module.graph
    placeholder = next(node for node in graph.nodes if node.op == "placeholder")
    users = [n for n in placeholder.users if n.target is torch.quantize_per_tensor]
    for node in users:
        node.replace_all_uses_with(placeholder)
        graph.erase_node(node)
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()


def quantize(
    model: nn.Module, calibration: Tensor, options: QuantizeOptions | None = None
) -> nn.Module:
    """Quantize a float classifier; returns a new module on the CPU, in eval mode.

    Args:
        model: takes uint8 `[N, C, H, W]`; left as it is. In a `Normalized` whose mean is one
            whole number the pixels become the quantized input as they are.
        calibration: real inputs `[N, C, H, W]` uint8, from the training data.
        options: see `QuantizeOptions`.

    Raises:
        ModelError: the graph cannot be captured (data-dependent control flow, say).
    """
    options = options or QuantizeOptions()
    torch.backends.quantized.engine = ENGINE
    calibration = calibration[: options.calibration]
    normalized = copy.deepcopy(model).eval()
    pixels = normalized.input_quantization() if isinstance(normalized, Normalized) else None
    body = normalized.body if isinstance(normalized, Normalized) and pixels else normalized
    prepare_input = normalized.normalize if isinstance(normalized, Normalized) and pixels else None
    with silenced(), torch.no_grad():
        example = prepare_input(calibration[:1]) if prepare_input else calibration[:1]
        try:
            prepared = prepare_fx(
                body,
                get_default_qconfig_mapping(ENGINE),
                (example,),
                backend_config=get_onednn_backend_config(),
            )
        except Exception as error:  # tracing runs the user's code: anything can come out
            raise ModelError(
                f"the model's graph cannot be captured for quantization: {error}; "
                "leave out the quantize stage"
            ) from error
        for start in range(0, len(calibration), 64):
            batch = calibration[start : start + 64]
            prepared(prepare_input(batch) if prepare_input else batch)
        if pixels:
            observer = FixedQParamsObserver(*pixels, dtype=torch.quint8)  # type: ignore[no-untyped-call]
            placeholder = next(n for n in prepared.graph.nodes if n.op == "placeholder")
            for user in placeholder.users:
                if user.op == "call_module" and "activation_post_process" in user.target:
                    setattr(prepared, user.target, observer)
        converted = convert_fx(prepared, backend_config=get_onednn_backend_config())
    if not pixels:
        return converted.eval()
    _drop_input_quantization(converted)
    return _PixelInput(converted, *pixels).eval()
