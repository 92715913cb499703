"""The operators of Core ML's MIL in torch, as coremltools documents them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

TYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int32,
    "uint16": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


class Arguments:
    """The inputs of one operator: tensors, or constants as Python values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def tensor(self, name: str) -> Tensor:
        """A tensor; float16 ones as float32, because the CPU has few float16 kernels."""
        tensor = as_tensor(self.values[name])
        return tensor.float() if tensor.dtype == torch.float16 else tensor

    def raw(self, name: str) -> Tensor:
        """A tensor in its own type, for operators that only move values."""
        return as_tensor(self.values[name])

    def tensors(self, name: str) -> list[Tensor]:
        """A list of tensors, for operators that only move values."""
        return [as_tensor(value) for value in self.values[name]]

    def optional(self, name: str) -> Tensor | None:
        """A tensor that may be left out."""
        return self.tensor(name) if name in self else None

    def integers(self, name: str) -> list[int]:
        """A list of integers, constant or computed."""
        return [int(value) for value in np.asarray(self.values[name]).ravel()]

    def integer(self, name: str, default: int | None = None) -> int:
        """One integer."""
        return self.integers(name)[0] if name in self or default is None else default

    def number(self, name: str, default: float = 0.0) -> float:
        """One number."""
        return float(np.asarray(self.values[name]).ravel()[0]) if name in self else default

    def flag(self, name: str) -> bool:
        """One bool, false when left out."""
        return name in self and bool(np.asarray(self.values[name]).ravel()[0])

    def flags(self, name: str, count: int) -> list[bool]:
        """A list of bools, all false when left out."""
        if name not in self:
            return [False] * count
        return [bool(value) for value in np.asarray(self.values[name]).ravel()]

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        return str(np.asarray(self.values[name]).ravel()[0]) if name in self else default


def as_tensor(value: Any) -> Tensor:
    """A constant or a tensor as a tensor."""
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _conv(a: Arguments) -> Tensor:
    x, weight, strides = a.tensor("x"), a.tensor("weight"), a.integers("strides")
    dilations, kind = a.integers("dilations"), a.text("pad_type", "valid")
    sides = a.integers("pad") if kind == "custom" else [0] * (2 * len(strides))
    if kind.startswith("same"):
        sides = []
        for size, kernel, stride, step in zip(
            x.shape[2:], weight.shape[2:], strides, dilations, strict=True
        ):
            total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * step + 1 - size)
            sides += [total - total // 2, total // 2][:: 1 if kind == "same_lower" else -1]
    pairs = [sides[i : i + 2] for i in range(0, len(sides), 2)]
    x = F.pad(x, [side for pair in reversed(pairs) for side in pair])
    conv = {1: F.conv1d, 2: F.conv2d}[len(strides)]
    return conv(x, weight, a.optional("bias"), strides, 0, dilations, a.integer("groups", 1))


def _layer_norm(a: Arguments) -> Tensor:
    x, axes = a.tensor("x"), a.integers("axes")
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    normalized = (x - mean) / (variance + a.number("epsilon", 1e-5)).sqrt()
    for name, combine in (("gamma", torch.mul), ("beta", torch.add)):
        normalized = combine(normalized, a.tensor(name)) if name in a else normalized
    return normalized


def _matmul(a: Arguments) -> Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    x = x.transpose(-1, -2) if a.flag("transpose_x") else x
    return x @ (y.transpose(-1, -2) if a.flag("transpose_y") else y)


def _gather(a: Arguments) -> Tensor:
    x, indices = a.raw("x"), a.tensor("indices").long()
    axis = a.integer("axis", 0) % x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    rows = x.index_select(axis, indices.reshape(-1))
    return torch.reshape(rows, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _slice(a: Arguments) -> Tensor:
    x = a.raw("x")
    rank = x.dim()
    begin, end = a.integers("begin"), a.integers("end")
    stride = a.integers("stride") if "stride" in a else [1] * rank
    from_start, to_end = a.flags("begin_mask", rank), a.flags("end_mask", rank)
    squeezed = a.flags("squeeze_mask", rank)
    index: list[Any] = []
    for i in range(rank):
        if squeezed[i]:
            index.append(begin[i])
            continue
        places = range(x.shape[i])[
            slice(None if from_start[i] else begin[i], None if to_end[i] else end[i], stride[i])
        ]
        if places.step == 1:
            x = x.narrow(i, places.start, len(places))
        else:
            x = x.index_select(i, torch.tensor(list(places), dtype=torch.long))
        index.append(slice(None))
    return x[tuple(index)]


def _reshape(a: Arguments) -> Tensor:
    x, shape = a.raw("x"), a.integers("shape")
    # A zero keeps the size; an empty shape makes a scalar.
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape)]
    return torch.reshape(x, tuple(sizes))


def _expand_dims(a: Arguments) -> Tensor:
    x, axes = a.raw("x"), a.integers("axes")
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _pad(a: Arguments) -> Tensor:
    x, sides = a.tensor("x"), a.integers("pad")
    pairs = [sides[i : i + 2] for i in range(0, len(sides), 2)]
    flat = [side for pair in reversed(pairs) for side in pair]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}
    return F.pad(x, flat, mode[a.text("mode", "constant")], a.number("constant_val"))


def _attention(a: Arguments) -> Tensor:
    return F.scaled_dot_product_attention(
        a.tensor("query"), a.tensor("key"), a.tensor("value"), a.optional("attn_mask")
    )


def _reduce(function: Callable[..., Tensor]) -> Callable[[Arguments], Tensor]:
    def reduced(a: Arguments) -> Tensor:
        x = a.tensor("x")
        axes = a.integers("axes") if "axes" in a else list(range(x.dim()))
        return function(x, axes, keepdim=a.flag("keep_dims"))

    return reduced


def _one(function: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    return lambda a: function(a.tensor("x"))


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    return lambda a: function(a.tensor("x"), a.tensor("y"))


def _gelu(a: Arguments) -> Tensor:
    exact = a.text("mode", "EXACT") == "EXACT"
    return F.gelu(a.tensor("x"), approximate="none" if exact else "tanh")


def _split(a: Arguments) -> list[Tensor]:
    x, axis = a.raw("x"), a.integer("axis")
    sizes = a.integers("split_sizes") if "split_sizes" in a else []
    return list(x.split(sizes or x.shape[axis] // a.integer("num_splits"), axis))


OPERATORS: dict[str, Callable[[Arguments], Tensor | list[Tensor]]] = {
    "add": _two(torch.add),
    "cast": lambda a: a.tensor("x").to(TYPES[a.text("dtype")]),
    "clip": lambda a: a.tensor("x").clamp(a.number("alpha"), a.number("beta")),
    "concat": lambda a: torch.cat(
        [t.reshape(-1) if t.dim() == 0 else t for t in a.tensors("values")], a.integer("axis")
    ),
    "conv": _conv,
    "cumsum": lambda a: a.tensor("x").cumsum(a.integer("axis", 0)),
    "equal": _two(torch.eq),
    "erf": _one(torch.erf),
    "exp": _one(torch.exp),
    "expand_dims": _expand_dims,
    "fill": lambda a: torch.full(a.integers("shape"), a.number("value")),
    "floor_div": _two(torch.floor_divide),
    "gather": _gather,
    "gelu": _gelu,
    "greater": _two(torch.gt),
    "greater_equal": _two(torch.ge),
    "identity": lambda a: a.raw("x"),
    "layer_norm": _layer_norm,
    "less": _two(torch.lt),
    "less_equal": _two(torch.le),
    "linear": lambda a: F.linear(a.tensor("x"), a.tensor("weight"), a.optional("bias")),
    "logical_and": _two(torch.logical_and),
    "logical_not": _one(torch.logical_not),
    "logical_or": _two(torch.logical_or),
    "logical_xor": _two(torch.logical_xor),
    "matmul": _matmul,
    "maximum": _two(torch.maximum),
    "minimum": _two(torch.minimum),
    "mul": _two(torch.mul),
    "not_equal": _two(torch.ne),
    "pad": _pad,
    "pow": _two(torch.pow),
    "range_1d": lambda a: torch.arange(
        a.integer("start"), a.integer("end"), a.integer("step"), dtype=torch.int32
    ),
    "real_div": _two(torch.true_divide),
    "reduce_max": _reduce(torch.amax),
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(torch.sum),
    "relu": _one(F.relu),
    "relu6": _one(F.relu6),
    "reshape": _reshape,
    "rsqrt": lambda a: (a.tensor("x") + a.number("epsilon")).rsqrt(),
    "scaled_dot_product_attention": _attention,
    "select": lambda a: torch.where(a.tensor("cond").bool(), a.tensor("a"), a.tensor("b")),
    "shape": lambda a: torch.tensor(a.raw("x").shape, dtype=torch.int32),
    "sigmoid": _one(torch.sigmoid),
    "slice_by_index": _slice,
    "softmax": lambda a: a.tensor("x").softmax(a.integer("axis", -1)),
    "split": _split,
    "sqrt": _one(torch.sqrt),
    "square": _one(torch.square),
    "stack": lambda a: torch.stack(a.tensors("values"), a.integer("axis", 0)),
    "squeeze": lambda a: a.raw("x").squeeze(tuple(a.integers("axes"))),
    "sub": _two(torch.sub),
    "tanh": _one(torch.tanh),
    "tile": lambda a: a.raw("x").tile(a.integers("reps")),
    "transpose": lambda a: a.raw("x").permute(a.integers("perm")),
}
