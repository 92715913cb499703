"""Make a trained PyTorch model small and fast, and prove that its accuracy held.

`distill`, `prune` and `quantize` are plain functions over `nn.Module`; recipes compose them.
"""
