"""Models: architectures that recipes can name, and models that users bring.

Every image model in a pipeline takes uint8 pixels `[N, C, H, W]` (0..255) and returns float32
logits `[N, classes]`: `Normalized` puts the normalisation inside.
"""
