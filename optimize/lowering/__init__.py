"""Raw oneDNN operators in TorchScript: the one place that calls them."""

from optimize.lowering.int8 import ENGINE, Lowered, lower_int8

__all__ = ["ENGINE", "Lowered", "lower_int8"]
