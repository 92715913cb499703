"""The methods of `optimize.quantize`, and how a method and its layers are chosen."""
