"""Pruning: of channels, single weights, transformer heads and neurons, and vocabulary."""
