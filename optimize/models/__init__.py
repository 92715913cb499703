"""Models: architectures that recipes can name, and sources of users' own models.

Every image model takes uint8 pixels `[N, C, H, W]` (0..255) and returns float32 logits
`[N, classes]`; `Normalized` makes the normalisation part of the model.
"""
