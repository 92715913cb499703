"""What a model costs: parameters and multiply-accumulates."""

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of trained values in a float model, those folded into TorchScript included."""
    folded = sum(getattr(m, "folded", int)() for m in model.modules())  # TorchScriptFile has it
    return sum(p.numel() for p in model.parameters()) + folded


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers for one example `[1, ...]`."""
    if any(isinstance(m, torch.jit.ScriptModule) for m in model.modules()):  # takes no hooks
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(example)
        return int(counter.get_total_flops()) // 2
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            kernel = module.weight.shape[1:].numel()
            total += output.numel() * kernel

    hooks = [m.register_forward_hook(count) for m in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
    return total
