"""Arguments of a model's call: one tensor, or a tuple of several with as many rows."""

from torch import Tensor

Inputs = Tensor | tuple[Tensor, ...]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """The tensors of a call, of which a single one is written alone."""
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def count(inputs: Inputs) -> int:
    """Number of rows."""
    return len(as_tuple(inputs)[0])


def rows(inputs: Inputs, start: int, stop: int) -> Inputs:
    """Some of the rows."""
    if isinstance(inputs, Tensor):
        return inputs[start:stop]
    return tuple(tensor[start:stop] for tensor in inputs)


def split(inputs: Inputs, size: int) -> list[Inputs]:
    """The rows in parts of at most `size`."""
    return [rows(inputs, start, start + size) for start in range(0, count(inputs), size)]
