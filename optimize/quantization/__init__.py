"""The methods of `optimize.quantization.quantize`, and how a method and its layers are chosen."""
