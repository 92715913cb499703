"""From a trained PyTorch model to a proven TorchServe endpoint: the public functions.

    import marpress

    recipe = marpress.read_recipe(Path("recipes/fashion.yaml"))
    folder = marpress.run(recipe)
    print(marpress.report(folder)["gate"])

Each is imported on first use, so that `import marpress` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimize.export.command import run as export
    from optimize.lowering.int8 import lower_int8
    from optimize.pruning.prune import prune
    from optimize.quantization.quantize import quantize
    from optimize.report.report import read as report
    from optimize.run import run
    from optimize.tasks.registry import read_recipe
    from optimize.tasks.registry import register as register_task
    from optimize.training.distillation import distill

    __version__: str

__all__ = [
    "__version__",
    "distill",
    "export",
    "lower_int8",
    "prune",
    "quantize",
    "read_recipe",
    "register_task",
    "report",
    "run",
]

# Public name -> module and the function's name there.
_HOMES = {
    "distill": ("optimize.training.distillation", "distill"),
    "export": ("optimize.export.command", "run"),
    "lower_int8": ("optimize.lowering.int8", "lower_int8"),
    "prune": ("optimize.pruning.prune", "prune"),
    "quantize": ("optimize.quantization.quantize", "quantize"),
    "read_recipe": ("optimize.tasks.registry", "read_recipe"),
    "register_task": ("optimize.tasks.registry", "register"),
    "report": ("optimize.report.report", "read"),
    "run": ("optimize.run", "run"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from optimize.utils import distribution

        return distribution.version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, function = _HOMES[name]
    return getattr(importlib.import_module(module), function)


def __dir__() -> list[str]:
    return sorted(__all__)
