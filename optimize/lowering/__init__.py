"""Quantized operators in TorchScript, oneDNN's and FBGEMM's: the one place that calls them."""

from optimize.lowering.int8 import ENGINE, Lowered, lower_int8

__all__ = ["ENGINE", "Lowered", "lower_int8"]
