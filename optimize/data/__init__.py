"""Data sets, one module each, with a function `load` that returns the data."""
