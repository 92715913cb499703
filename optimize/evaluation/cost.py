"""Cost of a model: parameters and multiply-accumulates."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of parameters of a float model, including those folded into TorchScript code."""
    folded = sum(getattr(m, "folded", int)() for m in model.modules())  # TorchScriptFile has it
    return sum(p.numel() for p in model.parameters()) + folded


def macs(model: nn.Module, *example: Tensor) -> int:
    """Multiply-accumulates of one call: convolutions and matrix products, also in attention.

    Counted by `torch.utils.flop_counter`, which counts two operations for each.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(*example)
    return int(counter.get_total_flops()) // 2
