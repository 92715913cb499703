"""Make a trained PyTorch model small and fast, and prove that its accuracy held.

`distill`, `prune` and `quantize` are plain functions over `nn.Module`; recipes compose them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimize.pruning.prune import PruneOptions, prune
    from optimize.quantization.quantize import QuantizeOptions, quantize
    from optimize.training.distillation import DistillOptions, distill

__all__ = ["DistillOptions", "PruneOptions", "QuantizeOptions", "distill", "prune", "quantize"]

_HOMES = {
    "DistillOptions": "optimize.training.distillation",
    "distill": "optimize.training.distillation",
    "PruneOptions": "optimize.pruning.prune",
    "prune": "optimize.pruning.prune",
    "QuantizeOptions": "optimize.quantization.quantize",
    "quantize": "optimize.quantization.quantize",
}


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for: the command line needs none to print help."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
